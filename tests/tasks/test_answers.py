"""Equality and F1 of words: values worked out by hand from the rules of SQuAD 1.1 and of DROP."""

from __future__ import annotations

import pytest

from zodist.tasks.answers import compare, drop_words, squad_words


@pytest.mark.parametrize(
    ("answer", "references", "exact", "f1"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1, 1),
        ("tower", ["the Eiffel Tower"], 0, 2 / 3),  # precision 1, recall 1/2
        ("big big tower", ["big tower"], 0, 0.8),  # a word counts as often as it occurs: 2 of 3, 2 of 2
        ("in 1999, maybe", ["1998", "1999"], 0, 0.5),  # the better reference
        ("an answer", ["another"], 0, 0),
        ("", ["x"], 0, 0),
        ("U.S.", ["us"], 1, 1),
        ("well-known", ["well known"], 0, 0),  # SQuAD joins what a hyphen separates
        ("the", ["a"], 1, 0),  # nothing left on either side: equal, but no word is shared
    ],
)
def test_squad(answer: str, references: list[str], exact: float, f1: float) -> None:
    assert compare(answer, references, "squad") == (exact, pytest.approx(f1))


@pytest.mark.parametrize(
    ("answer", "references", "exact", "f1"),
    [
        ("well-known", ["Well known"], 1, 1),
        ("4.0", ["4"], 1, 1),
        ("$1,000", ["1000"], 1, 1),
        ("5 yards", ["4 yards"], 0, 0),  # another number: nothing counts
        ("4", ["4 yards"], 0, 2 / 3),
        ("the yards", ["4 yards"], 0, 0),  # no number at all
        ("big big tower", ["big tower"], 0, 1),  # each word counts once
        ("Tom Brady", ["Brady", "Tom"], 0, 2 / 3),
        ("", ["the"], 1, 1),
    ],
)
def test_drop(answer: str, references: list[str], exact: float, f1: float) -> None:
    assert compare(answer, references, "drop") == (exact, pytest.approx(f1))


def test_words() -> None:
    assert squad_words("A  man, an oak & THE sea.") == ["man", "oak", "sea"]
    assert drop_words("The 3-yard run; 1.50 (a) 2,000") == ["3.0", "yard", "run", "1.5", "2000.0"]
