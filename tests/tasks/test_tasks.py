"""Tasks: draws follow the seed, batches are functions of their examples, losses mean what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from films import SENTENCES, byte_level, loader, logits_for, rows, token_logits, write, write_task
from torch.nn.functional import cross_entropy

from zodist.errors import TaskError
from zodist.tasks.loading import load_task
from zodist.tasks.task import Task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_task(tmp_path)


@pytest.fixture
def load(folder: Path) -> Callable[..., Task]:
    return loader(folder)


def test_sets_are_disjoint_and_follow_the_protocol_of_mezo(load: Callable[..., Task]) -> None:
    task = load()
    places = [[e.place for e in split] for split in (task.train, task.validation, task.test)]
    assert [len(p) for p in places] == [20, 10, 8]
    assert len(set(places[0] + places[1])) == 30
    # One order of the split: a larger training set begins with the smaller one.
    larger = load(train=22)
    assert [e.place for e in larger.train] == places[0] + places[1][:2]
    assert all("validation.jsonl" in place for place in places[2])


def test_another_seed_draws_other_rows(load: Callable[..., Task]) -> None:
    assert load().train != load(seed=1).train
    assert load().train == load().train


def test_a_short_split_trains_on_what_validation_leaves(load: Callable[..., Task]) -> None:
    task = load(train=1000, validation=15, test=1000)
    assert (len(task.train), len(task.validation), len(task.test)) == (25, 15, 12)
    assert any("25 train instead of task.train = 1000" in warning for warning in task.warnings)


def test_the_validation_split_is_not_needed_without_a_test_set(
    load: Callable[..., Task], folder: Path
) -> None:
    (folder / "validation.jsonl").unlink()
    assert len(load(test=0).test) == 0


def test_the_fingerprint_is_that_of_the_content(load: Callable[..., Task], folder: Path) -> None:
    first = load().fingerprint()
    assert len(first) == 16 and int(first, 16) >= 0
    (folder / "elsewhere").mkdir()
    moved = {
        "train": write(folder / "elsewhere" / "a.jsonl", rows(40)),
        "validation": write(folder / "elsewhere" / "b.jsonl", rows(52)[40:]),
    }
    assert load(files=moved).fingerprint() == first
    assert load(seed=1).fingerprint() != first
    assert load((" great", " good")).fingerprint() != first
    assert (
        load(("template =", 'score = "sum"\ntemplate =')).fingerprint()
        != load(('score = "sum"\n', "")).fingerprint()
    )
    changed = rows(40)
    for row in changed:
        row["label"] = 1 - row["label"]
    write(folder / "train.jsonl", changed)
    assert load((" good", " great")).fingerprint() != first


def test_rows_are_padded_on_the_left_and_positions_count_tokens(load: Callable[..., Task]) -> None:
    task = load()
    batch = task.batch(task.train[:6])
    assert batch.input_ids.dtype == batch.attention_mask.dtype == batch.position_ids.dtype == torch.int64
    for example, ids, mask, positions in zip(
        task.train, batch.input_ids, batch.attention_mask, batch.position_ids, strict=False
    ):
        n = len(example.tokens)
        assert ids[-n:].tolist() == list(example.tokens)
        assert mask.tolist() == [0] * (len(mask) - n) + [1] * n
        assert positions[-n:].tolist() == list(range(n)) and positions[: len(mask) - n].sum() == 0
    assert batch.input_ids.shape[1] == max(len(example.tokens) for example in task.train[:6])


def test_a_batch_is_a_function_of_its_examples(load: Callable[..., Task]) -> None:
    first, second = load(), load()
    a, b = first.batch(first.train[3:9]), second.batch(second.train[3:9])
    for name in ("input_ids", "attention_mask", "position_ids", "columns", "labels"):
        assert torch.equal(getattr(a, name), getattr(b, name))


def test_the_loss_is_cross_entropy_over_the_options(load: Callable[..., Task]) -> None:
    task = load()
    batch = task.batch(task.train[:5])
    assert (batch.keep, batch.examples) == (1, 5) and batch.columns is not None and len(batch.columns) == 2
    logits = logits_for(batch)
    assert batch.labels is not None
    expected = cross_entropy(logits[:, 0].float(), batch.labels, reduction="none")
    assert torch.allclose(batch.losses(logits), expected)
    scores = batch.scores(logits)
    assert scores is not None and scores.dtype == torch.float32
    assert torch.allclose(scores.exp().sum(1), torch.ones(5))


def test_one_token_options_give_the_loss_of_one_row_per_option(load: Callable[..., Task]) -> None:
    """The vocabulary's normaliser cancels; float32 rounding of a log-softmax over 400 columns is left."""
    task = load()
    batch = task.batch(task.train[:7])
    columns, labels = batch.columns, batch.labels
    assert columns is not None and labels is not None
    logits = token_logits(batch.input_ids, 400)[:, -1]
    scores = logits.log_softmax(-1)[:, columns]  # mean log-probability of an option that is one token
    expected = cross_entropy(scores.float(), labels, reduction="none")
    assert torch.allclose(batch.losses(logits[:, None, columns]), expected, atol=1e-5)


@pytest.mark.parametrize("rule", ["mean", "sum"])
def test_longer_options_take_a_row_each_and_score_their_log_probability(
    load: Callable[..., Task], rule: str
) -> None:
    changes = (" great", " great and warm"), (" terrible", " bad jokes today")
    task = load(*changes, ("template =", f'score = "{rule}"\ntemplate ='))
    assert any("several tokens" in warning for warning in task.warnings)
    options = [byte_level()(w, add_special_tokens=False)["input_ids"] for w in task.label_words]
    assert len(options[0]) != len(options[1])
    examples = task.train[:5]
    batch = task.batch(examples)
    assert batch.columns is None and len(batch.input_ids) == 10 and batch.keep == max(map(len, options))
    scores = batch.scores(logits_for(batch))
    assert scores is not None
    for example, loss, score in zip(examples, batch.losses(logits_for(batch)), scores, strict=True):
        means = []
        for option in options:
            row = torch.tensor([*example.tokens, *option])
            logp = token_logits(row, 400).log_softmax(-1)
            total = sum(logp[len(example.tokens) - 1 + i, t] for i, t in enumerate(option))
            means.append(total / len(option) if rule == "mean" else total)
        expected = torch.stack(means).log_softmax(0)
        assert torch.allclose(score.double(), expected, atol=1e-5)
        assert loss.item() == pytest.approx(-expected[example.label].item(), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_computed_in_float32(load: Callable[..., Task], dtype: torch.dtype) -> None:
    task = load()
    batch = task.batch(task.train[:4])
    logits = logits_for(batch).to(dtype)
    assert torch.equal(batch.losses(logits), batch.losses(logits.float()))
    assert batch.losses(logits).dtype == torch.float32


def test_a_loss_does_not_depend_on_the_company(load: Callable[..., Task]) -> None:
    task = load((" great", " great and warm"))
    together = task.batch(task.train[:8])
    losses = together.losses(logits_for(together))
    for example, loss in zip(task.train[:8], losses, strict=True):
        alone = task.batch([example])
        assert torch.equal(alone.losses(logits_for(alone))[0], loss)


@pytest.mark.parametrize("words", [" great", " great and warm"])
@pytest.mark.parametrize("start", [False, True])
def test_a_long_prompt_loses_its_beginning_only(load: Callable[..., Task], words: str, start: bool) -> None:
    tokenizer = byte_level(start=start)
    whole = load((" great", words), tokenizer=tokenizer)
    task = load(tokenizer=tokenizer, max_tokens=9)
    longest = len(tokenizer(words, add_special_tokens=False)["input_ids"])
    assert any("lose their beginning" in warning for warning in task.warnings)
    for full, cut in zip(whole.train, task.train, strict=True):
        assert len(cut.tokens) == min(len(full.tokens), 9 - longest)
        head = 1 if start else 0
        assert cut.tokens[:head] == full.tokens[:head] == ((tokenizer.bos_token_id,) if start else ())
        assert cut.tokens[head:] == full.tokens[len(full.tokens) - len(cut.tokens) + head :]
    batch = task.batch(task.train)
    assert batch.input_ids.shape[1] <= 9


def test_no_room_for_a_prompt_is_an_error(load: Callable[..., Task]) -> None:
    with pytest.raises(TaskError, match=r"max_tokens = 1 leaves no room .*raise it by at least 1"):
        load(max_tokens=1)


def test_words_with_the_same_first_token_are_warned_about(load: Callable[..., Task]) -> None:
    task = load((" terrible", " great film"))
    assert any("begin with the same token" in warning for warning in task.warnings)


def test_a_word_that_joins_the_prompt_is_warned_about_and_keeps_the_prompt(load: Callable[..., Task]) -> None:
    apart = load(('It was"', 'It wa"'))
    task = load((" terrible", "s terrible"), (" great", "s great"))
    assert any("joins the label word 's great'" in warning for warning in task.warnings)
    assert [e.tokens for e in task.train] == [e.tokens for e in apart.train]


def test_ordinary_words_give_no_warning(load: Callable[..., Task]) -> None:
    assert load().warnings == ()


def test_text_loss_is_the_mean_surprise_of_the_tokens(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(SENTENCES * 3) + "\nx\n", encoding="utf-8")
    task = load_task(
        "text",
        byte_level(),
        files={"train": tmp_path / "a.txt"},
        train=9,
        validation=4,
        test=0,
        seed=0,
        max_tokens=8,
    )
    assert task.label_words == () and task.metric == "loss"
    assert any("lose their end" in w for w in task.warnings)
    assert any("fewer than two tokens" in w for w in task.warnings)
    batch = task.batch(task.train[:5])
    assert batch.columns is None and batch.labels is None and batch.scores(logits_for(batch)) is None
    for example, loss in zip(task.train[:5], batch.losses(logits_for(batch)), strict=True):
        tokens = torch.tensor(example.tokens)
        expected = cross_entropy(token_logits(tokens[:-1], 400), tokens[1:])
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
