"""Multiple choice and written answers: what carries the loss, what an evaluation finds, whoever makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from task_rows import Reader, ids_of, likelihood, load_rows, random_llama

from zodist.errors import TaskError
from zodist.evaluator import Evaluator, Weights
from zodist.models import collect
from zodist.run import PIECE, cut, evaluate
from zodist.tasks.choice import ChoiceExample
from zodist.tasks.task import Example

CHOICE = """\
kind = "choice"
template = "{start}"
options = [" {a}", " {b}", " a bright film"]
neutral = "It was"
"""
LISTED = """\
kind = "choice"
template = "{start}"
options_field = "who"
answers_field = "right"
"""
WRITTEN = """\
kind = "generation"
template = "{text}\\nIt was"
answers_field = "words"
most_tokens = 6
"""


STARTS = [
    {
        "start": f"the plot {n}",
        "a": "is thin",
        "b": "is warm and the jokes are old " * (1 + n % 2),
        "label": n % 3,
    }
    for n in range(9)
]


@pytest.mark.parametrize("rule", ["mean", "sum"])
def test_options_are_compared_by_their_likelihood(tmp_path: Path, rule: str) -> None:
    task = load_rows(tmp_path, CHOICE + f'score = "{rule}"\n', STARTS)
    examples = list(task.train)
    score = task.score(task.measure(Reader(), examples), examples)
    right, by_sum, calibrated, losses = [], [], [], []
    for example in examples:
        row = STARTS[int(example.place.rpartition(":")[2]) - 1]
        options = [f" {row['a']}", f" {row['b']}", " a bright film"]
        sums, lengths = zip(*(likelihood(row["start"], text) for text in options), strict=True)
        bare = [likelihood("It was", text)[0] for text in options]
        means = [s / n for s, n in zip(sums, lengths, strict=True)]
        best = means if rule == "mean" else sums
        right.append(best.index(max(best)) == row["label"])
        by_sum.append(sums.index(max(sums)) == row["label"])
        gains = [s - b for s, b in zip(sums, bare, strict=True)]
        calibrated.append(gains.index(max(gains)) == row["label"])
        losses.append(-means[row["label"]])
    assert score.accuracy == pytest.approx(sum(right) / 9)
    assert score.by_sum == pytest.approx(sum(by_sum) / 9)
    assert score.calibrated == pytest.approx(sum(calibrated) / 9)
    assert score.loss == pytest.approx(sum(losses) / 9, rel=1e-5)
    # What is trained on is the right option's mean loss, the same as the evaluation's.
    batch = task.batch(examples)
    assert batch.examples == len(batch.input_ids) == 9
    assert batch.losses(Reader().logits(batch)).tolist() == pytest.approx(losses, rel=1e-5)


def test_any_listed_answer_is_right_and_f1_is_that_of_its_words(tmp_path: Path) -> None:
    rows = [
        {
            "start": "the cast",
            "who": ["is warm", "a thin plot", "the thin jokes"],
            "right": ["nobody", "a thin plot"],
        },
        {"start": "the cast", "who": ["is old", "is bright", "is old"], "right": ["is old", "is bright"]},
    ]
    task = load_rows(tmp_path, LISTED, rows, seed=3)
    examples = sorted(task.train, key=lambda e: e.place)
    first, second = examples
    assert isinstance(first, ChoiceExample) and isinstance(second, ChoiceExample)
    assert (first.right, second.right, len(second.options)) == ((1,), (0, 1), 2)
    score = task.score(task.measure(Reader(), examples), examples)
    chosen = []
    for row, names in zip(rows, (rows[0]["who"], ["is old", "is bright"]), strict=True):
        means = [s / n for s, n in (likelihood(str(row["start"]), f" {name}") for name in names)]
        chosen.append(names[means.index(max(means))])
    f1 = {"is warm": 0.0, "a thin plot": 1.0, "the thin jokes": 0.5}[chosen[0]]
    assert (
        score.f1 == pytest.approx((f1 + 1) / 2) and score.accuracy == ((chosen[0] == "a thin plot") + 1) / 2
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"start": "x", "a": "y", "b": "z", "label": 3}, r"rows.jsonl:1: the label 3 .*0 to 2"),
        ({"start": "x", "who": ["y"], "right": ["y"]}, r"'who' must list two options or more"),
        (
            {"start": "x", "who": ["y", "z"], "right": ["q"]},
            r"none of the answers \['q'\].* among the options",
        ),
    ],
)
def test_a_row_without_a_right_option_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_rows(tmp_path, LISTED if "who" in row else CHOICE, [row])


def test_written_answers_are_compared_with_all_references(tmp_path: Path) -> None:
    rows = [
        {"text": "the film", "words": ["great", "a warm film"]},
        {"text": "the plot", "words": "thin"},
        {"text": "a joke", "words": ["old"]},
    ]
    task = load_rows(tmp_path, WRITTEN, rows)
    examples = sorted(task.train, key=lambda e: e.place)
    figures = task.measure(Reader([" warm film\n bad", " thick", " the old."]), examples)
    assert figures[:, 1].tolist() == [1, 0, 1] and figures[:, 2].tolist() == [1, 0, 1]
    score = task.score(figures, examples)
    assert score.exact == score.f1 == pytest.approx(2 / 3) and score.accuracy is None
    # The loss is that of the first reference's tokens alone.
    for example, row, loss in zip(examples, rows, figures[:, 0], strict=True):
        words = row["words"] if isinstance(row["words"], str) else row["words"][0]
        total, n = likelihood(f"{row['text']}\nIt was", f" {words}\n")
        assert loss.item() == pytest.approx(-total / n, rel=1e-5)
        assert task.shown(example)[1] == ((len(example.tokens) - n, len(example.tokens)),)


def test_writing_takes_the_most_likely_token_again_and_again() -> None:
    own = random_llama()
    evaluator = Evaluator(own, collect(own, "", master=False), {})
    prompts = [ids_of(text) for text in ("the plot is", "a", "the cast is warm and the")]
    stop = own(torch.tensor([prompts[0]])).logits[0, -1].argmax().item()  # the first answer ends at once
    written = Weights(evaluator).write(prompts, 5, [stop], 1)
    for prompt, got in zip(prompts, written, strict=True):
        want: list[int] = []
        while len(want) < 5 and not (want and want[-1] in (stop, 1)):
            want.append(int(own(torch.tensor([prompt + want])).logits[0, -1].argmax()))
        assert got == want
    assert written[0] is not None and len(written[0]) == 1
    evaluator.close()


def test_figures_do_not_depend_on_who_evaluates_what(tmp_path: Path) -> None:
    """Each worker has a model of its own; pieces are shared out one by one, and evaluated from the last to the first."""
    rows = [{"text": f"the plot {'is thin and ' * (n % 7)}{n}", "words": ["old"]} for n in range(70)]
    task = load_rows(tmp_path, WRITTEN, rows, max_tokens=128)
    evaluators = []
    for _ in range(3):
        own = random_llama()
        evaluators.append(Evaluator(own, collect(own, "", master=False), {}))
    alone = evaluate(evaluators[0], task, task.train)
    assert alone.examples == 70

    def share(worker: int) -> dict[int, bytes]:
        made: dict[int, bytes] = {}

        def gather(count: int, size: int, make: Any) -> list[bytes]:
            for item in reversed(range(worker, count, 3)):
                made[item] = make(item)
            assert all(len(payload) == size for payload in made.values())
            return [made.get(item, bytes(size)) for item in range(count)]

        evaluate(evaluators[worker], task, task.train, gather)
        return made

    shares = [share(worker) for worker in range(3)]
    every = {item: payload for own in shares for item, payload in own.items()}
    assert sum(map(len, shares)) == len(every) == len(cut(task, task.train))
    assert evaluate(evaluators[0], task, task.train, lambda n, *_: [every[i] for i in range(n)]) == alone


def test_every_example_is_in_one_piece(tmp_path: Path) -> None:
    task = load_rows(tmp_path, CHOICE, [{**STARTS[n % 9], "start": f"the plot {n}"} for n in range(75)])
    pieces = cut(task, task.train)
    assert sorted(i for piece in pieces for i in piece) == list(range(75))
    assert max(map(len, pieces)) <= PIECE
    long = [Example(tuple(range(4000)), None, "") for _ in range(5)]
    assert [len(piece) for piece in cut(task, [])] == []
    text = load_rows(tmp_path, 'kind = "text"\n', [{"text": "the plot"}] * 2)
    assert [len(piece) for piece in cut(text, long)] == [2, 2, 1]
