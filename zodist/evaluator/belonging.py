"""Which point each token of an activation belongs to, and what is done to tokens point by point.

Points with equally many rows stand one after the other along dim 0, [points * rows, ..., k]; those with unequal numbers of
tokens stand end to end, [1, tokens, k].  Which of the two it is, is said when a forward begins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from zodist.directions import LaidLowRank
from zodist.errors import ModelError


class Belonging(ABC):
    """points: how many there are.  lead: the length of dim 0."""

    points: int
    lead: int

    @abstractmethod
    def gathered(self, x: Tensor, path: str) -> Tensor:
        """An activation [..., k] with the tokens of each point together, as the other functions take it.

        Raises ModelError, naming the leaf at ``path``, if it has other tokens than the forward was given.
        """

    @abstractmethod
    def times(self, x: Tensor, matrices: Tensor) -> Tensor:
        """Each token times the matrix of its point, [points, k, m]."""

    @abstractmethod
    def add_thin_(self, y: Tensor, x: Tensor, laid: LaidLowRank, *, transpose: bool) -> Tensor:
        """Add x times each point's low-rank matrix to y."""

    @abstractmethod
    def add_vector_(self, y: Tensor, vectors: Tensor) -> Tensor:
        """Add each point's vector, [points, m], to y."""

    @abstractmethod
    def look_up(self, rows: Tensor, place: Tensor, path: str) -> Tensor:
        """Rows of each point's matrix for every token: [lead, T, k].

        rows: [points, n, k].  place: int64 [lead or 1, T], which of the n rows a token takes.
        """

    @abstractmethod
    def spread(self, values: Tensor, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """Each point's vector, [points, k], to be multiplied with an activation at once, and that activation's shape for it.

        axis: that of the tokens in x.
        """

    @abstractmethod
    def split(self, x: Tensor, axis: int, path: str) -> Sequence[Tensor]:
        """The parts of an activation that belong to each point."""

    @abstractmethod
    def joined(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """What ``split`` took apart."""


class Stacked(Belonging):
    """Dim 0 has the points, each with equally many rows."""

    def __init__(self, points: int, lead: int) -> None:
        self.points, self.lead = points, lead

    def gathered(self, x: Tensor, path: str) -> Tensor:
        """[points, tokens of each, k], contiguous: a strided slice would go through a slow product."""
        if x.shape[0] % self.points:
            raise ModelError(
                f"{path}: cannot be split into {self.points} points, its input is {tuple(x.shape)}"
            )
        return x.reshape(self.points, -1, x.shape[-1]).contiguous()

    def times(self, x: Tensor, matrices: Tensor) -> Tensor:
        return torch.bmm(x, matrices)

    def add_thin_(self, y: Tensor, x: Tensor, laid: LaidLowRank, *, transpose: bool) -> Tensor:
        return y.baddbmm_(*laid.times(x, transpose=transpose))

    def add_vector_(self, y: Tensor, vectors: Tensor) -> Tensor:
        return y.add_(vectors.unsqueeze(1))

    def look_up(self, rows: Tensor, place: Tensor, path: str) -> Tensor:
        if place.shape[0] not in (1, self.lead):
            raise ModelError(f"{path}: {self.lead} rows expected, its input is {tuple(place.shape)}")
        own = place.expand(self.lead, *place.shape[1:]).reshape(self.points, -1)
        offsets = torch.arange(self.points, device=place.device) * rows.shape[1]
        return rows.flatten(0, 1)[own + offsets[:, None]].view(self.lead, *place.shape[1:], -1)

    def spread(self, values: Tensor, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """[points, 1, ..., k], and the activation with the points as an axis of their own."""
        return values.view(self.points, *(1,) * (x.dim() - 1), -1), x.view(self.points, -1, *x.shape[1:])

    def split(self, x: Tensor, axis: int, path: str) -> Sequence[Tensor]:
        return x.view(self.points, -1, *x.shape[1:]).unbind()

    def joined(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(tuple(parts))


class EndToEnd(Belonging):
    """Tokens of point p: the next lengths[p].

    owner: int64 [tokens], the point of each.  Neighbouring points of equal length, as those of one probe, are multiplied
    together, [points of a run, tokens of each, k].
    """

    lead = 1

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths, self.points, self.tokens = list(lengths), len(lengths), sum(lengths)
        each = torch.tensor(self.lengths)
        self.owner = torch.repeat_interleave(torch.arange(self.points), each).to(device, non_blocking=True)
        self._runs: list[tuple[slice, slice, int]] = []
        point = token = 0
        for length, run in groupby(self.lengths):
            count = len(list(run))
            points, tokens = slice(point, point + count), slice(token, token + count * length)
            self._runs.append((points, tokens, count))
            point, token = points.stop, tokens.stop

    def _check(self, tokens: int, path: str) -> None:
        if tokens != self.tokens:
            raise ModelError(
                f"{path}: its input has {tokens} tokens, zodist knows where {self.tokens} belong; set batch.packed = false"
            )

    def _parts(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Views of [tokens, k], one a run: its points, and [points of the run, tokens of each, k]."""
        for points, tokens, count in self._runs:
            yield points, x[tokens].view(count, -1, x.shape[1])

    def gathered(self, x: Tensor, path: str) -> Tensor:
        """[tokens, k], contiguous."""
        self._check(x.shape[:-1].numel(), path)
        return x.reshape(-1, x.shape[-1]).contiguous()

    def times(self, x: Tensor, matrices: Tensor) -> Tensor:
        y = x.new_empty(len(x), matrices.shape[2])
        for (points, own), (_, out) in zip(self._parts(x), self._parts(y), strict=True):
            torch.bmm(own, matrices[points], out=out)
        return y

    def add_thin_(self, y: Tensor, x: Tensor, laid: LaidLowRank, *, transpose: bool) -> Tensor:
        for (points, own), (_, out) in zip(self._parts(x), self._parts(y), strict=True):
            out.baddbmm_(*laid.times(own, transpose=transpose, start=points.start))
        return y

    def add_vector_(self, y: Tensor, vectors: Tensor) -> Tensor:
        return y.add_(vectors[self.owner])

    def look_up(self, rows: Tensor, place: Tensor, path: str) -> Tensor:
        self._check(place.shape[1], path)
        return rows.flatten(0, 1)[place + self.owner * rows.shape[1]]

    def spread(self, values: Tensor, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """Every token's vector, along the axis of the tokens, and the activation as it is."""
        shape = [-1 if dim == x.dim() - 1 else 1 for dim in range(x.dim())]
        shape[axis] = x.shape[axis]
        return values[self.owner].view(shape), x

    def split(self, x: Tensor, axis: int, path: str) -> Sequence[Tensor]:
        self._check(x.shape[axis], path)
        return x.split(self.lengths, axis)

    def joined(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(tuple(parts), axis)
