"""The table [adapter]: how large what model.adapter adds to a model is, and what does not go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from zodist.config.section import Expression, Finite, Positive, Section

if TYPE_CHECKING:
    from zodist.config.settings import Config

Kind = Literal["", "lora", "dora", "ia3", "prefix", "prompt"]
Quantise = Literal["none", "int8"]
USES: dict[str, tuple[str, ...]] = {
    "rank": ("lora", "dora"),
    "alpha": ("lora", "dora"),
    "targets": ("lora", "dora", "ia3"),
    "tokens": ("prefix", "prompt"),
}


class Adapter(Section):
    """[adapter]: what model.adapter = "lora", "dora", "ia3", "prefix" or "prompt" adds.

    rank, alpha: of the matrices of lora and dora, whose product counts alpha / rank times.  targets: a regular expression
    of the whole names of the layers that get one ("": those that peft chooses for the model).  tokens: virtual tokens of
    prefix and prompt.
    """

    rank: Positive = 8
    alpha: Annotated[Finite, Field(gt=0)] = 16.0
    targets: Expression = ""
    tokens: Positive = 10


def contradiction(config: Config) -> str:
    """Which setting does not go with the adapter, as a sentence; "" if none."""
    kind, settings = config.model.adapter, config.adapter
    for key, kinds in USES.items():
        if kind not in kinds and getattr(settings, key) != Adapter.model_fields[key].default:
            named = " or ".join(repr(other) for other in kinds)
            return f"adapter.{key} has no effect with model.adapter = {kind!r}; set model.adapter = {named}"
    if config.shard.kind != "none" and (kind or config.model.quantise != "none"):
        key, off = ("adapter", "''") if kind else ("quantise", "'none'")
        return (
            f"shard.kind = {config.shard.kind!r} cuts a model's weights as they are; set model.{key} = {off}"
        )
    if kind in ("prefix", "prompt") and config.batch.cache_frozen:
        return f"model.adapter = {kind!r} enters below the frozen layers; set batch.cache_frozen = false"
    return ""


def identity(config: Config) -> dict[str, object]:
    """What of the adapter the weights depend on: its kind and the keys that it uses."""
    kind = config.model.adapter
    return {
        "kind": kind,
        **{key: getattr(config.adapter, key) for key, kinds in USES.items() if kind in kinds},
    }
