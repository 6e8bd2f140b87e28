"""Is a written answer right? Equality and F1 of words, by the rules of SQuAD 1.1 and of DROP.

SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250): lower case, without punctuation, articles and surplus space; F1 counts a
word as often as it occurs.  DROP (Dua et al. 2019, arXiv:1903.00161): words end at hyphens too, numbers are compared as
numbers and keep their punctuation, F1 counts each word once, and an answer whose number is not the reference's has F1 0.
The best of several references counts.  DROP's own program asks for all spans of an answer that has several; here, as in
MeZO's protocol (arXiv:2305.17333), each span is a reference of its own.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_BARE = str.maketrans("", "", string.punctuation)


def squad_words(text: str) -> list[str]:
    """The words of a text, as SQuAD compares them."""
    return [str(word) for word in _ARTICLES.sub(" ", text.lower().translate(_BARE)).split()]


def drop_words(text: str) -> list[str]:
    """The words of a text, as DROP compares them; a number is written as a float."""
    found = []
    for part in re.split(r"[ -]", text.lower()):
        number = _number(part)
        if number is None:
            part = part.translate(_BARE)
            number = _number(part)
        found.append(_ARTICLES.sub(" ", part if number is None else str(number)))
    return [str(word) for part in found for word in part.split()]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def squad_f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of the words that two texts share, 0 to 1."""
    shared = sum((Counter(answer) & Counter(reference)).values())
    return 2 * shared / (len(answer) + len(reference)) if shared else 0.0


def drop_f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of the different words that two texts share, 0 where the reference has a number and the answer none of its."""
    mine, right = set(answer), set(reference)
    numbers = {word for word in right if _number(word) is not None}
    if numbers and not numbers & mine:
        return 0.0
    if not mine and not right:
        return 1.0
    return 2 * len(mine & right) / (len(mine) + len(right))


RULES: dict[str, tuple[Callable[[str], list[str]], Callable[[Sequence[str], Sequence[str]], float]]] = {
    "squad": (squad_words, squad_f1),
    "drop": (drop_words, drop_f1),
}


def compare(answer: str, references: Sequence[str], rules: str) -> tuple[float, float]:
    """Whether the answer equals a reference, 0 or 1, and its largest F1 with one.  rules: "squad" or "drop"."""
    words, f1 = RULES[rules]
    mine = words(answer)
    found = [(float(mine == own), f1(mine, own)) for own in map(words, references)]
    return max(exact for exact, _ in found), max(score for _, score in found)
