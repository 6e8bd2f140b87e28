"""Words with human ratings of their feeling, from the package vaderSentiment (MIT licence).

Its file vader_lexicon.txt has one entry a line: word, mean of ten people's ratings from -4 (very negative) to
+4 (very positive), standard deviation, the ten ratings. Hutto and Gilbert, "VADER: A Parsimonious Rule-based
Model for Sentiment Analysis of Social Media Text", ICWSM 2014.

Kept: words of three or more letters a-z (no emoticons), with a mean rating of at least 1 in size, so that
people agree on the sign. Words that begin with the same five letters (abandon, abandoned, abandoning) are one
family, and a family
lies in one split as a whole: what is measured on the validation words was not learnt from another form of
them. Both splits are balanced, so that guessing is right half of the time. 3,184 training and 1,636
validation words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zlib import crc32

from zodist.errors import TaskError

FILE = "vader_lexicon.txt"
WEAKEST = 1.0  # mean ratings nearer to 0 have no clear sign


def read(folder: Path, split: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Records with the fields word, feeling ("negative" or "positive") and rating; and their lines."""
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(
            f"{folder / FILE} cannot be read ({error.strerror}); reinstall vaderSentiment"
        ) from None
    words: dict[str, tuple[int, float]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        word, rating, *_ = line.split("\t")
        word = word.lower()
        if len(word) >= 3 and word.isascii() and word.isalpha() and abs(float(rating)) >= WEAKEST:
            words.setdefault(word, (number, float(rating)))
    here = [word for word in words if _is_validation(word) == (split == "validation")]
    # A fixed order without meaning decides which words of the larger side stay.
    sides = [sorted((w for w in here if (words[w][1] > 0) == up), key=_order) for up in (False, True)]
    size = min(map(len, sides))
    kept = sorted(word for side in sides for word in side[:size])
    records = [
        {"word": word, "feeling": "positive" if words[word][1] > 0 else "negative", "rating": words[word][1]}
        for word in kept
    ]
    return records, [words[word][0] for word in kept]


def _is_validation(word: str) -> bool:
    """Three families in ten."""
    return crc32(word[:5].encode()) % 10 < 3


def _order(word: str) -> tuple[int, str]:
    return crc32(word.encode()), word
