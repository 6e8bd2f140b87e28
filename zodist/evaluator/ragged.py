"""Points with unequal numbers of tokens, end to end: which token is at which point, and products that go by point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor


class Ragged:
    """Tokens [tokens, k] of which point p has lengths[p].

    owner: int64 [tokens], the point of each.  Neighbouring points of equal length, as those of one probe, are multiplied
    together, [points of a run, tokens of each, k].
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = list(lengths)
        each = torch.tensor(self.lengths)
        self.owner = torch.repeat_interleave(torch.arange(len(each)), each).to(device, non_blocking=True)
        self._runs: list[tuple[slice, slice, int]] = []
        point = token = 0
        for length, run in groupby(self.lengths):
            count = len(list(run))
            points, tokens = slice(point, point + count), slice(token, token + count * length)
            self._runs.append((points, tokens, count))
            point, token = points.stop, tokens.stop

    def parts(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Views of [tokens, k], one a run: its points, and [points of the run, tokens of each, k]."""
        for points, tokens, count in self._runs:
            yield points, x[tokens].view(count, -1, x.shape[1])

    def products(self, x: Tensor, matrices: Tensor) -> Tensor:
        """Each token times the matrix of its point, [points, k, m]: [tokens, m]."""
        y = x.new_empty(len(x), matrices.shape[2])
        for (points, own), (_, out) in zip(self.parts(x), self.parts(y), strict=True):
            torch.bmm(own, matrices[points], out=out)
        return y
