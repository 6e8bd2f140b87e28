"""What leaves see of the forward that is under way: its points, what its rows belong to, and scratch to write into."""

from __future__ import annotations

import math

import torch

from zodist.directions import Param
from zodist.evaluator.belonging import Belonging, Stacked
from zodist.evaluator.points import PointSet
from zodist.evaluator.shares import Shares

# Numbers of a large matrix at a time: on the CPU they stay in cache between noise and GEMM.
PIECE, CUDA_PIECE = 1 << 21, 1 << 26
_SHAPES = 256  # of scratch that are kept: those of the leaves come again in every forward


class Frame:
    """One per evaluator, set up for each forward.

    active: whether a forward of the evaluator is under way; else modules run as they are.
    points: of this forward.  body, head: which point a token of an activation belongs to, below the head and in it, where
    only the tokens are left whose logits enter the loss.  shares, head_shares: the same where every example has a point of
    its own; else None.  columns: entries of the vocabulary that enter the loss, int64 [n] on the device; None: all.
    calls: how often each leaf has run.
    """

    def __init__(self, device: torch.device, *, parallel: bool) -> None:
        self.device, self.parallel, self.active = device, parallel, False
        self.points = PointSet((), {})
        self.body: Belonging = Stacked(1, 1)
        self.head: Belonging = self.body
        self.shares: Shares | None = None
        self.head_shares: Shares | None = None
        self.columns: torch.Tensor | None = None
        self.calls: dict[str, int] = {}
        self._known: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self._scratch: dict[torch.dtype, torch.Tensor] = {}
        self._shaped: dict[tuple[torch.dtype, tuple[int, ...]], torch.Tensor] = {}

    def start(
        self,
        points: PointSet,
        body: Belonging,
        head: Belonging,
        columns: torch.Tensor | None = None,
        shares: tuple[Shares, Shares] | None = None,
    ) -> None:
        """Begin a forward.  shares: below the head and in it."""
        self.points, self.body, self.head, self.columns = points, body, head, columns
        self.shares, self.head_shares = shares or (None, None)
        self.active = True
        self.calls.clear()

    def scratch(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """A buffer of this shape; the next call with the same dtype overwrites it."""
        found = self._shaped.get((dtype, shape))
        if found is not None:
            return found
        size, held = math.prod(shape), self._scratch.get(dtype)
        if held is None or held.numel() < size:
            held = self._scratch[dtype] = torch.empty(size, dtype=dtype, device=self.device)
            self._shaped.clear()
        if len(self._shaped) == _SHAPES:
            self._shaped.clear()
        found = self._shaped[dtype, shape] = held[:size].view(shape)
        return found

    @property
    def piece(self) -> int:
        """How many numbers of a large matrix to perturb at a time."""
        return PIECE if self.device.type == "cpu" else CUDA_PIECE

    def know(self, ids: torch.Tensor) -> torch.Tensor:
        """The model's ids, int64 on the CPU, on the device; which are distinct is found here, where nothing waits for it."""
        moved = ids.to(self.device, non_blocking=True)
        if moved is not ids:
            index, inverse = (
                x.to(self.device, non_blocking=True) for x in torch.unique(ids, return_inverse=True)
            )
            self._known = moved, index, inverse
        return moved

    def distinct(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The distinct ids, and which of them each id is."""
        if self._known is not None and self._known[0].data_ptr() == ids.data_ptr():
            return self._known[1], self._known[2].view(ids.shape)
        return torch.unique(ids, return_inverse=True)

    def whole(self, param: Param, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A parameter at every point: [points, *shape], in scratch."""
        out = self.scratch(dtype or param.model.dtype, len(self.points), *param.shape)
        self._write_(param, 0, param.weights.numel(), out)
        return out

    def span(self, param: Param, start: int, stop: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Numbers start .. stop - 1 of a parameter at every point: [points, stop - start], in scratch."""
        out = self.scratch(dtype or param.model.dtype, len(self.points), stop - start)
        self._write_(param, start, stop, out)
        return out

    def _write_(self, param: Param, start: int, stop: int, out: torch.Tensor) -> None:
        laid = self.points.laid(param)
        if laid is None:
            out.copy_(param.weights[start:stop].view(out.shape[1:]))
        else:
            laid.write_(param, start, stop, out, parallel=self.parallel)

    def rows(self, param: Param, index: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Some rows of a matrix at every point: [points, rows, width].  Rows not named are never touched."""
        dtype, laid = dtype or param.model.dtype, self.points.laid(param)
        if laid is None:
            return param.model.view(param.shape)[index].to(dtype).expand(len(self.points), -1, -1)
        out = self.scratch(dtype, len(self.points), len(index), param.shape[-1])
        laid.rows_(param, index, out, parallel=self.parallel)
        return out
