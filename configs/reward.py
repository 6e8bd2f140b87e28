"""The reward of reward.toml: how good a text feels, from -1 to 1, by the words in it.

The rules of VADER (Hutto and Gilbert, ICWSM 2014) look words up and count negations and exclamation marks: no gradient.
"""

from __future__ import annotations

from functools import cache

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from zodist.objective.reward import Written


@cache
def _analyzer() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()


def feeling(written: Written) -> float:
    """The compound score of the answer's words, each of them once: else "like like like" is the best of all answers."""
    once = dict.fromkeys(written.answer.split())
    return _analyzer().polarity_scores(" ".join(once))["compound"]
