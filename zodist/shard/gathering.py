"""The parts of a tensor brought together in place on the CPU: torch's own all-gather over gloo first makes a copy of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
import torch.distributed as dist


@final
class Gathering:
    """What is under way until it is waited for, as a library's handle."""

    def __init__(self, works: list[Any]) -> None:
        self._works = works

    def wait(self) -> bool:
        """Until the whole tensor is there."""
        for work in self._works:
            work.wait()
        return True


def gather(
    output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any = None, async_op: bool = False
) -> Gathering | None:
    """torch.distributed.all_gather_into_tensor: equal parts of all workers of a group, one after the other.

    Every worker sends its part straight to where the others need it, so that nothing is held twice.
    """
    parts = output_tensor.view(-1).chunk(dist.get_world_size(group))
    own = parts[dist.get_rank(group)]
    if own.data_ptr() != input_tensor.data_ptr():
        own.copy_(input_tensor.view(-1))
    senders = [k if group is None else dist.get_global_rank(group, k) for k in range(len(parts))]
    started = Gathering(
        [
            dist.broadcast(part, src=k, group=group, async_op=True)
            for k, part in zip(senders, parts, strict=True)
        ]
    )
    if async_op:
        return started
    started.wait()
    return None


@final
class Gather:
    """The same as FSDP2 asks for it (torch.distributed.fsdp.FSDPModule.set_custom_all_gather)."""

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Room for the whole."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, async_op: bool = False
    ) -> Gathering | None:
        """Gather."""
        return gather(output_tensor, input_tensor, group, async_op)
