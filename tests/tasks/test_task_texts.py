"""Chat and plain text: what carries the loss; streams, truncation, filters; and how tasks are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from films import byte_level, token_logits, write
from task_rows import Reader, load_rows, text_of
from torch.nn.functional import cross_entropy

from zodist.errors import TaskError

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def chat_tokenizer() -> Any:
    from copy import deepcopy

    own = deepcopy(byte_level())
    own.chat_template = CHAT
    return own


TALK = [
    {"role": "system", "content": "be warm"},
    {"role": "user", "content": "the film?"},
    {"role": "assistant", "content": "a bright film"},
    {"role": "user", "content": "the plot?"},
    {"role": "assistant", "content": "thin"},
    {"role": "user", "content": "thanks"},
]


def test_only_the_assistant_carries_the_loss(tmp_path: Path) -> None:
    task = load_rows(tmp_path, 'kind = "chat"\n', [{"messages": TALK}], chat_tokenizer(), max_tokens=400)
    (example,) = task.train
    parts = [text_of(example.tokens[a:b]) for a, b in example.targets]
    assert parts == ["a bright film</s>", "thin</s>"]
    assert text_of(example.tokens).endswith("<|assistant|>thin</s>")
    batch = task.batch(task.train)
    tokens = torch.tensor(example.tokens)
    losses = cross_entropy(token_logits(tokens[:-1], 400), tokens[1:], reduction="none")
    counted = torch.cat([losses[a - 1 : b - 1] for a, b in example.targets])
    assert batch.losses(Reader().logits(batch)).item() == pytest.approx(counted.mean().item(), rel=1e-5)
    assert batch.keep == len(tokens) - example.targets[0][0]


def test_a_long_conversation_loses_its_beginning(tmp_path: Path) -> None:
    rows = [{"messages": TALK}, {"messages": TALK[:2]}]
    whole = load_rows(tmp_path, 'kind = "chat"\n', rows, chat_tokenizer(), max_tokens=400)
    assert any("1 conversations without a turn of the assistant" in w for w in whole.warnings)
    short = load_rows(tmp_path, 'kind = "chat"\n', rows, chat_tokenizer(), max_tokens=12)
    (full,), (cut_off,) = whole.train, short.train
    assert cut_off.tokens == full.tokens[-12:] and any("lose their beginning" in w for w in short.warnings)
    assert cut_off.targets[-1][1] == 12


def test_a_template_that_rewrites_history_is_refused(tmp_path: Path) -> None:
    own = chat_tokenizer()
    own.chat_template = CHAT.replace("{{ m.content }}", "{{ m.content if loop.last else 'x' }}")
    with pytest.raises(TaskError, match="writes message 3 otherwise when more messages follow"):
        load_rows(tmp_path, 'kind = "chat"\n', [{"messages": TALK}], own)
    with pytest.raises(TaskError, match="has no chat template"):
        load_rows(tmp_path, 'kind = "chat"\n', [{"messages": TALK}])
    with pytest.raises(TaskError, match=r"rows.jsonl:1: the field 'messages' must list messages"):
        load_rows(tmp_path, 'kind = "chat"\n', [{"messages": ["hi"]}], chat_tokenizer())


def test_packed_text_predicts_every_token_once(tmp_path: Path) -> None:
    rows = [{"text": f"the plot is thin {n} " + "and old " * (n % 4)} for n in range(11)]
    task = load_rows(tmp_path, 'kind = "text"\npack = true\n', rows, max_tokens=9)
    order = load_rows(tmp_path, 'kind = "text"\n', rows, max_tokens=400)
    stream = [token for example in order.train for token in (*example.tokens, 1)]
    assert [len(e.tokens) for e in task.train[:-1]] == [9] * (len(task.train) - 1)
    assert [t for e in task.train for t in e.tokens[1:]] == stream[1:]
    assert all(a.tokens[-1] == b.tokens[0] for a, b in zip(task.train, task.train[1:], strict=False))


@pytest.mark.parametrize("first", [0, 30])
def test_a_stream_is_read_no_further_than_needed(tmp_path: Path, first: int) -> None:
    """`datasets` streams a local folder by the same call as a data set of the hub; its later rows are broken here."""
    data = tmp_path / "set"
    data.mkdir()
    rows = [{"sentence": f"the plot {n}", "label": n % 2} for n in range(40)]
    write(data / "test.jsonl", rows[:6])
    write(data / "train.jsonl", rows)
    text = (
        'kind = "classification"\ntemplate = "{sentence} It was"\n[labels]\n0 = " bad"\n1 = " good"\n'
        f'[source]\nhub = "{data}"\nstreaming = true\nfirst = {first}\n[splits]\nvalidation = "test"\n'
    )
    task = load_rows(tmp_path, text, rows, train=7, validation=3, test=4)
    drawn = {int(e.place.rpartition(" ")[2]) for e in (*task.train, *task.validation)}
    assert len(drawn) == 10 and len(task.test) == 4
    assert max(drawn) < (first or 10) and (first == 0 or max(drawn) >= 10)


def test_the_named_field_gives_way(tmp_path: Path) -> None:
    rows = [{"long": "the plot is thin and old " * 9, "short": f"a warm joke {n}"} for n in range(3)]
    text = (
        'kind = "generation"\ntemplate = "{long}\\nIt was {short} and"\nanswers_field = "short"\nmost_tokens = 4\n'
        'shorten = "long"\n'
    )
    task = load_rows(tmp_path, text, rows, max_tokens=48)
    for example in task.train:
        prompt = text_of(example.tokens[: example.targets[0][0]])
        row = rows[int(example.place.rpartition(":")[2]) - 1]
        assert len(example.tokens) <= 48 and prompt.endswith(f"\nIt was {row['short']} and")
        assert prompt.startswith("the plot is thin") and len(prompt) > len(row["short"]) + 30
    assert any("'long' loses its end" in warning for warning in task.warnings)
    with pytest.raises(TaskError, match=r"own.toml:5: shorten = 'lang' is not a field of the template"):
        load_rows(tmp_path, text.replace('shorten = "long"', 'shorten = "lang"'), rows)


def test_filters_change_a_field(tmp_path: Path) -> None:
    template = "{a:lower}|{a:capital}|{b:small}|{c:small}|{a:unstop}|{d.inner}|{e}"
    row = {"a": "the Film.", "b": "The Plot", "c": "I saw", "d": {"inner": 3}, "e": "cause", "words": "x"}
    text = f'kind = "generation"\ntemplate = "{template}"\nanswers_field = "words"\nmost_tokens = 1\n'
    task = load_rows(tmp_path, text + '[replace.e]\ncause = "because"\n', [row], max_tokens=400)
    (example,) = task.train
    prompt = text_of(example.tokens[: example.targets[0][0]])
    assert prompt == "the film.|The Film.|the Plot|I saw|the Film|3|because"
    with pytest.raises(TaskError, match=r"filter 'uper'; it can be 'lower'"):
        load_rows(tmp_path, text.replace("capital", "uper"), [row])
    with pytest.raises(TaskError, match="names the field 'f', which .* lacks"):
        load_rows(tmp_path, text + '[replace.f]\ncause = "because"\n', [row])


def test_the_list_and_the_examples_are_shown(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from zodist.__main__ import app

    runner = CliRunner()
    listed = json.loads(runner.invoke(app, ["tasks", "--json"]).stdout)
    assert {"name": "squad", "kind": "generation", "metric": "f1", "source": "rajpurkar/squad"} in listed
    byte_level().save_pretrained(tmp_path)
    data = write(tmp_path / "rows.jsonl", [{"sentence": f"the plot {n}", "label": n % 2} for n in range(5)])
    call = ["tasks", "show", "sst2", "--model", str(tmp_path), "--train", str(data)]
    shown = json.loads(runner.invoke(app, [*call, "--json"]).stdout)
    assert len(shown["examples"]) == 3
    for example in shown["examples"]:
        prompt, answer = example["pieces"]
        assert (prompt["loss"], answer["loss"]) == (False, True) and prompt["text"].endswith(" It was")
        assert answer["text"] == (" terrible", " great")[example["label"]]
    plain = runner.invoke(app, call).stdout
    assert plain.count(" It was«") == plain.count("»") == 3
