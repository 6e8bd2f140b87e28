"""The table [shard]: whether several workers hold one model between them, and what does not go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from zodist.config_section import Count, Section

if TYPE_CHECKING:
    from zodist.config import Config


class Shard(Section):
    """[shard]: who cuts the weights, and over how many workers (0: all of a host).

    kind: "zero" is DeepSpeed's ZeRO-3, "fsdp" torch's FSDP2.  offload: where a worker keeps its part, with "zero": on the
    accelerator, in the host's memory, or in files in ``folder``, which is best on a local NVMe disk.
    """

    kind: Literal["none", "zero", "fsdp"] = "none"
    size: Count = 0
    offload: Literal["none", "cpu", "nvme"] = "none"
    folder: str = ""


def contradiction(config: Config) -> str:
    """Which setting does not go with another, as a sentence; "" if none."""
    shard = config.shard
    if shard.kind == "none":
        for key in ("size", "offload", "folder"):
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
    if config.exchange.kind == "store":
        return (
            "exchange.kind = 'store' lets workers come and go, a shard group needs them all; set it to 'auto'"
        )
    return ""
