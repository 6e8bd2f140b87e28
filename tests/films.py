"""A small task about films, a tokenizer for it, and logits without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from zodist.tasks import Batch, Task, load_task

SENTENCES = [
    "a dull film It was terrible",
    "a bright film It was great",
    "the plot is thin and the jokes are old It was bad",
    "the cast is warm and the plot is bright It was good",
]
TASK = """\
kind = "classification"
template = "{sentence} It was"
[labels]
0 = " terrible"
1 = " great"
[source]
files = {train = "train.jsonl", validation = "validation.jsonl"}
"""


@cache
def byte_level(*, start: bool = False) -> PreTrainedTokenizerBase:
    """A byte-level BPE like those of real models, trained on SENTENCES; with a start token on request."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    raw.train_from_iterator(SENTENCES * 4, trainer)
    if start:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


def rows(n: int) -> list[dict[str, Any]]:
    """Rows whose sentences differ in words and in length."""
    words = "film plot cast jokes warm thin old bright".split()
    return [
        {"sentence": " ".join(words[(i + j) % 8] for j in range(1 + i % 5)) + f" {i}", "label": i % 2}
        for i in range(n)
    ]


def write(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_task(folder: Path) -> Path:
    """A task file, 40 training rows and 12 others; returns the folder."""
    (folder / "films.toml").write_text(TASK, encoding="utf-8")
    write(folder / "train.jsonl", rows(40))
    write(folder / "validation.jsonl", rows(52)[40:])
    return folder


def loader(folder: Path) -> Callable[..., Task]:
    """load_task of the folder's task, after replacing parts of its text for good."""

    def run(*edits: tuple[str, str], **settings: Any) -> Task:
        text = (folder / "films.toml").read_text(encoding="utf-8")
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        (folder / "films.toml").write_text(text, encoding="utf-8")
        given: dict[str, Any] = {"files": {}, "train": 20, "validation": 10, "test": 8, "seed": 0}
        given |= {"max_tokens": 64, "tokenizer": byte_level()} | settings
        return load_task(str(folder / "films.toml"), **given)

    return run


def token_logits(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Logits [rows, T, size] of each token by itself: a stand-in for a model without attention."""
    token, vocabulary = rows[..., None].double(), torch.arange(size).double()
    return torch.sin(token * 0.37 + vocabulary * 0.11) * 3


def logits_for(batch: Batch, size: int = 400) -> torch.Tensor:
    logits = token_logits(batch.input_ids, size)[:, -batch.keep :]
    return logits if batch.columns is None else logits[..., batch.columns]
