"""Who cuts the weights: the function of the library that [shard] names, or what to install."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from zodist.errors import ModelError
from zodist.shard.held import Cut


def cutter(kind: str) -> Callable[..., Cut]:
    """The function ``shard`` of zodist.shard.fsdp or zodist.shard.zero.  Raises ModelError where the library is missing."""
    if kind == "zero" and find_spec("deepspeed") is None:
        raise ModelError(
            "shard.kind = 'zero' needs the package deepspeed, which is not installed; run: pip install "
            "'zodist[deepspeed]', or set shard.kind = 'fsdp'"
        )
    try:
        return import_module(f"zodist.shard.{kind}").shard
    except ImportError as error:
        raise ModelError(
            f"shard.kind = 'fsdp' needs torch 2.6 or newer ({error}); upgrade torch, or set shard.kind = 'zero'"
        ) from error
