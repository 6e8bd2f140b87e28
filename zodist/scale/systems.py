"""What a sweep measures: something that makes one training step at a time and says what its seconds went into."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from zodist import noise
from zodist.bench import SEED, RandomBatch, Settings
from zodist.directions import address
from zodist.exchange import Exchange
from zodist.models import DTYPES
from zodist.scale.cell import Cell

COLUMNS = 2  # vocabulary entries in the loss
RANDOM = "random-1m"  # a Llama of a million random weights
_KINDS = {
    "zodist": "zodist.scale.replicated:ZerothOrder",
    "naive": "zodist.scale.baselines.naive:Naive",
    "ddp": "zodist.scale.baselines.ddp:Ddp",
    "ddp-lora": "zodist.scale.baselines.lora:Lora",
    "diloco": "zodist.scale.baselines.diloco:DiLoCo",
}


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of a step.  gather: in the exchange, the wait for slower workers included."""

    forward: float
    gather: float
    update: float


class System(Protocol):
    """One way to train.

    payload: bytes that this worker has handed to the network so far.  expected: bytes of a step, or of an outer one where
    only those use the network, before any was made.
    """

    payload: float
    expected: float

    def step(self) -> Spent:
        """One step."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


@runtime_checkable
class Nested(System, Protocol):
    """A system whose steps use no network but after every so many of them.  every: how many."""

    every: int

    def outer(self) -> Spent:
        """What comes after every ``every`` steps."""
        ...


def load(name: str, dtype: str) -> Any:
    """The model of a cell.  Random weights have addresses, so every worker has the same."""
    if name != RANDOM:
        from zodist.models import load_model

        return load_model(name, DTYPES[dtype], "sdpa")[0]
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": 128,
        "intermediate_size": 344,
        "num_hidden_layers": 4,
        "vocab_size": 2048,
    }
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    model: Any = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval()
    with torch.no_grad():
        for path, p in model.named_parameters():
            if p.dim() > 1:
                drawn = noise.numbers(noise.GAUSSIAN, SEED, address(path), noise.Z, 0, p.numel())
                p.copy_(torch.from_numpy(drawn * np.float32(0.02)).view_as(p))
    model.config.use_cache = False
    return model.to(DTYPES[dtype]).requires_grad_(False)


def batch_of(cell: Cell, model: Any) -> RandomBatch:
    """Random tokens; the loss is over few entries at the last position."""
    shapes = (cell.model, cell.noise, cell.batch, cell.tokens, cell.dtype, max(1, cell.probes), cell.threads)
    return RandomBatch.of(
        Settings(*shapes, columns=COLUMNS, wide=1), model.get_input_embeddings().weight.shape[0]
    )


def build(cell: Cell, model: Any, exchange: Exchange) -> System:
    """The system of a cell, on a model that it may change; torch's default process group is up."""
    module, _, kind = _KINDS[cell.system.rstrip("0123456789").rstrip("-")].partition(":")
    return getattr(import_module(module), kind)(cell, model, exchange)
