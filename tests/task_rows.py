"""A task from rows that a test makes up, and a reader of it without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from films import byte_level, token_logits, write
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from zodist.tasks import Batch, Task, load_task


class Reader:
    """Token-wise logits in place of a model, and answers that are given."""

    def __init__(self, answers: Sequence[str] = ()) -> None:
        self.answers = [byte_level()(text, add_special_tokens=False)["input_ids"] for text in answers]

    def logits(self, batch: Batch) -> torch.Tensor:
        return token_logits(batch.input_ids, 400)[:, -batch.keep :]

    def write(
        self, prompts: Any, most: int, stops: Any, pad: int, temperature: float = 0.0, addresses: Any = ()
    ) -> list[list[int]]:
        assert len(prompts) == len(self.answers)
        return self.answers  # type: ignore[return-value]


def load_rows(
    folder: Path, text: str, rows: Sequence[dict[str, Any]], tokenizer: Any = None, **changes: Any
) -> Task:
    (folder / "own.toml").write_text(text, encoding="utf-8")
    data = write(folder / "rows.jsonl", rows)
    given: dict[str, Any] = {"train": len(rows), "validation": 0, "test": 0, "seed": 0, "max_tokens": 64}
    given["files"] = {"train": data, "validation": data} if "[source]" not in text else {}
    return load_task(str(folder / "own.toml"), tokenizer or byte_level(), **(given | changes))


def text_of(tokens: Sequence[int]) -> str:
    """The text of some tokens."""
    return str(byte_level().decode(list(tokens)))


def ids_of(text: str) -> list[int]:
    return byte_level()(text, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]


def likelihood(prompt: str, words: str) -> tuple[float, int]:
    """Log-probability of the words after the prompt under token_logits, and their number of tokens."""
    head, own = ids_of(prompt), ids_of(words)
    tokens = torch.tensor(head + own)
    losses = cross_entropy(token_logits(tokens[:-1], 400), tokens[1:], reduction="none")
    return -losses[len(head) - 1 :].sum().item(), len(own)


def random_llama() -> Any:
    """A tiny random model with the vocabulary of byte_level."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(byte_level()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)
