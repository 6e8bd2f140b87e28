"""The table [shard]: whether several workers hold one model between them, and what does not go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from zodist.config.section import Count, Section

if TYPE_CHECKING:
    from zodist.config.settings import Config


class Shard(Section):
    """[shard]: who cuts the weights, and over how many workers (0: all of a host).

    kind: "zero" is DeepSpeed's ZeRO-3, "fsdp" torch's FSDP2.  share: what the workers of a group divide among them: probes,
    of which each evaluates its own, or the batch of every probe, in pieces of batch.examples_per_forward.
    offload: where a worker keeps its part, with "zero": on the accelerator, in the host's memory, or in files in
    ``folder``, which is best on a local NVMe disk.
    """

    kind: Literal["none", "zero", "fsdp"] = "none"
    size: Count = 0
    share: Literal["probes", "batch"] = "probes"
    offload: Literal["none", "cpu", "nvme"] = "none"
    folder: str = ""


def contradiction(config: Config) -> str:
    """Which setting does not go with another, as a sentence; "" if none."""
    shard = config.shard
    if shard.kind == "none":
        for key in ("size", "share", "offload", "folder"):
            if getattr(shard, key) != Shard.model_fields[key].default:
                return (
                    f"shard.{key} has no effect with shard.kind = 'none'; set shard.kind = 'zero' or 'fsdp'"
                )
        return ""
    if shard.offload != "none" and shard.kind != "zero":
        return f"shard.offload = {shard.offload!r} needs DeepSpeed; set shard.kind = 'zero'"
    if (shard.offload == "nvme") != bool(shard.folder):
        return "shard.offload = 'nvme' and shard.folder, where its files go, must be given together"
    if config.model.master != "none":
        return "model.master = 'float32' keeps numbers that no layer gathers; set model.master = 'none'"
    if config.batch.cache_frozen:
        return "batch.cache_frozen = true skips layers that a shard group gathers; set it to false"
    if shard.share == "batch":
        return _undivided(config)
    return ""


def _undivided(config: Config) -> str:
    """Why the batch of a probe cannot be divided among a group."""
    piece, size = config.batch.examples_per_forward, config.batch.size
    if not 0 < piece < size:
        return (
            f"shard.share = 'batch' divides a batch into pieces of batch.examples_per_forward = {piece} examples, of "
            f"batch.size = {size}; set it to a worker's share of the batch"
        )
    if getattr(config.method.settings, "examples", 0):
        return (
            f"method.name = {config.method.name!r} has directions for every example, which shard.share = 'batch' cannot "
            "divide; set shard.share = 'probes'"
        )
    return ""
