"""What one forward of the evaluator is about: its points, their directions laid out, the scratch that leaves write into."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from zodist.directions import Cache, Combination, Laid, Law, Param
from zodist.errors import ModelError
from zodist.evaluator.ragged import Ragged

# Numbers of a large matrix at a time: on the CPU they stay in cache between noise and GEMM.
PIECE, CUDA_PIECE = 1 << 21, 1 << 26
_SHAPES = 256  # of scratch that are kept: those of the leaves come again in every forward


@dataclass
class Frame:
    """What one forward is about: its points, its scratch, what was seen.  One per evaluator, reset for each forward."""

    laws: Mapping[int, Law | None]
    parallel: bool
    device: torch.device = torch.device("cpu")
    points: Sequence[Combination] = ()
    columns: torch.Tensor | None = None
    stack: int = 0
    active: bool = False
    shares: torch.Tensor | None = None
    owners: torch.Tensor | None = None
    members: Sequence[torch.Tensor] = ()
    ragged: dict[int, Ragged] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    known: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    _cache: Cache = field(default_factory=dict)
    _laid: dict[int, Laid] = field(default_factory=dict)
    _scratch: dict[torch.dtype, torch.Tensor] = field(default_factory=dict)
    _shaped: dict[tuple[torch.dtype, tuple[int, ...]], torch.Tensor] = field(default_factory=dict)

    def start(
        self,
        points: Sequence[Combination],
        stack: int,
        columns: torch.Tensor | None,
        shares: torch.Tensor | None = None,
        owners: torch.Tensor | None = None,
        lengths: Sequence[Sequence[int]] = (),
    ) -> None:
        """Begin a forward with ``stack`` on dim 0 at these points (none: at the weights); equal points keep their tables.

        shares: where every example has a point of its own, how much of it in each copy of the batch: +1, -1, or 0 for the
        weights, float32 [copies * examples]; number j is at point j mod the number of points.  owners: which example a token
        belongs to, int64 [tokens] on the CPU, where dim 0 has the copies alone; None: where it has the examples.
        lengths: how many tokens each point has where they stand end to end: of those that all leaves see, and of those that
        the head sees.
        """
        self.shares, self.owners, self.members = shares, None, ()
        if owners is not None:  # asked of the device, whose tokens are whose would make the host wait
            found = (owners == torch.arange(int(owners.max()) + 1)[:, None]).nonzero()[:, 1]
            self.members = found.to(self.device, non_blocking=True).split(owners.bincount().tolist())
            self.owners = owners.to(self.device, non_blocking=True)
        self.ragged = {sum(own): Ragged(own, self.device) for own in lengths}
        if points is not self.points:
            self._cache.clear()
            self._laid.clear()
        self.points, self.stack, self.columns, self.active = points, stack, columns, True
        self.calls.clear()

    def laid(self, param: Param) -> Laid | None:
        """The points' directions for one parameter; None where the weights themselves will do."""
        found = self._laid.get(param.id)
        if found is None:
            law = self.laws.get(param.id)
            if law is None:
                return None
            found = self._laid[param.id] = law.lay(param, self.points, self._cache)
        return None if found.still else found

    def split(self, tokens: int, path: str) -> Ragged | None:
        """How so many tokens belong to the points; None: as dim 0 says."""
        if not self.ragged:
            return None
        if tokens not in self.ragged:
            raise ModelError(
                f"{path}: its input has {tokens} tokens, zodist knows where {[*self.ragged]} belong"
            )
        return self.ragged[tokens]

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
            self.known = moved, index, inverse
        return moved

    def distinct(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The distinct ids, and which of them each id is."""
        if self.known is not None and self.known[0].data_ptr() == ids.data_ptr():
            return self.known[1], self.known[2].view(ids.shape)
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
        laid = self.laid(param)
        if laid is None:
            out.copy_(param.weights[start:stop].view(out.shape[1:]))
        else:
            laid.write_(param, start, stop, out, parallel=self.parallel)

    def rows(self, param: Param, index: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Some rows of a matrix at every point: [points, rows, width].  Rows not named are never touched."""
        dtype, laid = dtype or param.model.dtype, self.laid(param)
        if laid is None:
            return param.model.view(param.shape)[index].to(dtype).expand(len(self.points), -1, -1)
        out = self.scratch(dtype, len(self.points), len(index), param.shape[-1])
        laid.rows_(param, index, out, parallel=self.parallel)
        return out
