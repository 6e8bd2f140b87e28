"""Rows with the hub's fields for each task of MeZO's protocol, made up here; every row differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus"]
THINGS = ["film", "plot", "cast", "joke", "song"]


def _passage(n: int) -> str:
    return f"{NAMES[n % 7]} saw the {THINGS[n % 5]} {n} times. It was " + "very " * (n % 3) + "dull."


def _record(n: int) -> dict[str, Any]:
    # Rows have two, three or four options, and sometimes two right ones.
    people = [NAMES[(n + k) % 7] for k in range(2 + n % 3)]
    right = people[: 1 + n % 2]
    passage = f"{' and '.join(people)} met in {n}.\n@highlight\nThey saw a film"
    query = "Then @placeholder wept, and @placeholder left"
    return {"passage": passage, "query": query, "entities": people, "answers": right, "idx": {"passage": n}}


def _squad(n: int) -> dict[str, Any]:
    texts = [NAMES[n % 7], f"the {NAMES[n % 7]}"]
    question = f"Who saw it {n} times?"
    return {
        "id": str(n),
        "title": "Films",
        "context": _passage(n),
        "question": question,
        "answers": {"text": texts, "answer_start": [0, 0]},
    }


def _drop(n: int) -> dict[str, Any]:
    return {
        "section_id": "s",
        "query_id": str(n),
        "passage": _passage(n),
        "question": "How often?",
        "answers_spans": {"spans": [str(n), "many"][: 1 + n % 2], "types": ["number", "span"][: 1 + n % 2]},
    }


ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "sst2": lambda n: {"sentence": _passage(n), "label": n % 2, "idx": n},
    "rte": lambda n: {"premise": _passage(n), "hypothesis": "It was dull.", "label": n % 2, "idx": n},
    "cb": lambda n: {"premise": _passage(n), "hypothesis": "it was dull", "label": n % 3, "idx": n},
    "boolq": lambda n: {"question": "was it dull", "passage": _passage(n), "idx": n, "label": n % 2},
    "wsc": lambda n: {
        "text": _passage(n),
        "span1_index": 0,
        "span2_index": 6,
        "span1_text": NAMES[n % 7],
        "span2_text": "It",
        "idx": n,
        "label": n % 2,
    },
    "wic": lambda n: {
        "word": "cast",
        "sentence1": f"The cast was {n}.",
        "sentence2": _passage(n),
        "start1": 4,
        "start2": 0,
        "end1": 8,
        "end2": 4,
        "idx": n,
        "label": n % 2,
    },
    "multirc": lambda n: {
        "paragraph": _passage(n),
        "question": "Who saw it?",
        "answer": NAMES[n % 5],
        "idx": {"paragraph": n, "question": 0, "answer": 0},
        "label": n % 2,
    },
    "copa": lambda n: {
        "premise": _passage(n),
        "choice1": "The joke was old.",
        "choice2": f"I saw it {n} times and more.",
        "question": ("cause", "effect")[n % 2],
        "idx": n,
        "label": n // 2 % 2,
    },
    "record": _record,
    "squad": _squad,
    "drop": _drop,
}
