"""Which compiled kernels run on which device: numba's on the CPU, Triton's on a CUDA device, with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from zodist.errors import ModelError
from zodist.kernels import cpu, linalg, low_rank, matrix, moments, outer, rules, sketch, state

OLDEST_TRITON = (3, 6)  # tests/kernels/test_cuda_compile.py fails on 3.5 and earlier


class Forms(NamedTuple):
    """A kernel in its two forms, which give the same bits."""

    serial: Callable[..., Any]
    parallel: Callable[..., Any]

    def of(self, numbers: int, threads: bool = True) -> Callable[..., Any]:
        """The form for so many numbers: the serial one where a single thread is done before a pool has woken up.

        threads: whether the caller may use more than one.
        """
        return self.parallel if threads and numbers > cpu.SMALL else self.serial


@dataclass(frozen=True, eq=False, slots=True)
class Kernels:
    """The kernels of one device, each in its serial and its parallel form, by the name that it has for the CPU.

    A parameter has those of its weights' device.  What they are given lies there too.
    send: a numpy array as they take it.  view: a tensor on the device as they take it, sharing memory.  empty: room
    for float32 numbers of a shape.  rows: the numbers of neighbouring rows.
    piece: how many numbers of a gradient to make at a time.
    bend, score, core, back, sketch, linalg: of what methods keep beside the weights.  That is small, lies in the host's
    memory on every device, and so do these kernels' arguments.
    """

    send: Callable[[Any], Any]
    empty: Callable[..., Any]
    view: Callable[[torch.Tensor], Any]
    rows: Callable[[int, int], Any]
    piece: int
    perturb: Forms
    perturb_rows: Forms
    update: Forms
    digest: Forms
    move: Forms
    rank_one: Forms
    noises: Forms
    product: Forms
    descend: Forms
    descend_outer: Forms
    project: Forms
    ratio: Forms
    bend: Forms = Forms(state.bend_serial, state.bend_parallel)
    score: Forms = Forms(matrix.score_serial, matrix.score_parallel)
    core: Forms = Forms(sketch.core_serial, sketch.core_parallel)
    back: Forms = Forms(sketch.back_serial, sketch.back_parallel)
    sketch: Forms = Forms(sketch.sketch_serial, sketch.sketch_parallel)
    linalg: ModuleType = linalg


def _itself(array: Any) -> Any:
    return array


HOST = Kernels(
    send=_itself,
    empty=partial(np.empty, dtype=np.float32),
    view=torch.Tensor.numpy,
    rows=partial(np.arange, dtype=np.int64),
    piece=1 << 18,  # stays in cache
    perturb=Forms(cpu.perturb_serial, cpu.perturb_parallel),
    perturb_rows=Forms(cpu.perturb_rows_serial, cpu.perturb_rows_parallel),
    update=Forms(cpu.update_serial, cpu.update_parallel),
    digest=Forms(cpu.digest_serial, cpu.digest_parallel),
    move=Forms(rules.move_serial, rules.move_parallel),
    rank_one=Forms(outer.rank_one_serial, outer.rank_one_parallel),
    noises=Forms(matrix.noises_serial, matrix.noises_parallel),
    product=Forms(matrix.product_serial, matrix.product_parallel),
    descend=Forms(low_rank.descend_serial, low_rank.descend_parallel),
    descend_outer=Forms(outer.descend_outer_serial, outer.descend_outer_parallel),
    project=Forms(matrix.project_serial, matrix.project_parallel),
    ratio=Forms(moments.ratio_serial, moments.ratio_parallel),
)


@cache
def kernels_of(device: torch.device) -> Kernels:
    """The kernels for weights on a device.  Raises ModelError where there are none."""
    if device.type == "cpu":
        return HOST
    if device.type != "cuda":
        raise ModelError(
            f"there are no kernels for {device.type!r} devices; set model.device = 'cpu' or 'cuda'"
        )
    if find_spec("triton") is None:
        raise ModelError(
            "model.device = 'cuda' needs the package triton, which is not installed; run: pip install triton"
        )
    if tuple(int(part) for part in version("triton").split(".")[:2]) < OLDEST_TRITON:
        raise ModelError(
            f"model.device = 'cuda' needs triton 3.6 or newer, found {version('triton')}, which flushes subnormals to "
            "zero; upgrade torch, which brings it"
        )
    return on_cuda(device)


def on_cuda(device: torch.device) -> Kernels:
    """Triton's kernels, for tensors of one device."""
    from zodist.kernels import cuda, cuda_matrix, cuda_moments, cuda_project, cuda_rules

    def send(array: Any) -> torch.Tensor:
        if isinstance(array, torch.Tensor):
            return array
        held = torch.from_numpy(
            np.ascontiguousarray(array.view(np.int64) if array.dtype == np.uint64 else array)
        )
        # From pinned memory a copy only joins the queue; torch keeps the memory until it is done.
        pinned = held.pin_memory() if device.type == "cuda" and held.numel() else held
        return pinned.to(device, non_blocking=True)

    return Kernels(
        send=send,
        empty=partial(torch.empty, device=device),
        view=_itself,
        rows=range,
        piece=1 << 26,  # 256 MB: a launch costs as much as a million numbers
        perturb=_alike(cuda.perturb),
        perturb_rows=_alike(cuda.perturb_rows),
        update=_alike(cuda.update),
        digest=_alike(cuda.digest),
        move=_alike(cuda_rules.move),
        rank_one=_alike(cuda_matrix.rank_one),
        noises=_alike(cuda_matrix.noises),
        product=_alike(cuda_matrix.product),
        descend=_alike(cuda_matrix.descend),
        descend_outer=_alike(cuda_matrix.descend_outer),
        project=_alike(cuda_project.project),
        ratio=_alike(cuda_moments.ratio),
    )


def _alike(kernel: Callable[..., Any]) -> Forms:
    return Forms(kernel, kernel)
