"""Updates of Adam's kind: kept numbers over the roots of others, element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from zodist.directions.direction import Cache, Laid
from zodist.directions.kept import Kept
from zodist.directions.param import Param


@dataclass(frozen=True, eq=False, slots=True)
class Quotient(Kept):
    """m / (sqrt(v) + epsilon).

    above, below: m and v, such as Stored or a Product; the numbers of v must not be negative.  correct: what m and v are
    multiplied with, Adam's corrections.
    """

    above: Kept
    below: Kept
    epsilon: float
    correct: Callable[[], tuple[float, float]]

    def lay(self, param: Param, factors: Sequence[float], cache: Cache) -> LaidQuotient:
        """Both layouts; their tables are not shared between parameters, for m and v need none."""
        first, second = self.correct()
        above = self.above.lay(param, [factor * first for factor in factors], {})
        below = self.below.lay(param, [second], {})
        return LaidQuotient(above, below, np.float32(self.epsilon))


class LaidQuotient(Laid):
    """m at every factor, and v once."""

    def __init__(self, above: Laid, below: Laid, epsilon: np.float32) -> None:
        self.above, self.below, self.epsilon = above, below, epsilon
        self.grain = max(above.grain, below.grain)

    def write_(
        self,
        param: Param,
        start: int,
        stop: int,
        out: torch.Tensor,
        *,
        add: bool = True,
        parallel: bool = False,
    ) -> None:
        """float32, each operation rounded once; then, with ``add``, the weights' float32 sum rounded to out's dtype."""
        m = torch.empty(out.shape, device=out.device)
        v = torch.empty(1, stop - start, device=out.device)
        self.above.write_(param, start, stop, m, add=False, parallel=parallel)
        self.below.write_(param, start, stop, v, add=False, parallel=parallel)
        m /= v.sqrt_().add_(
            float(self.epsilon)
        )  # torch rounds roots and quotients correctly, on every device
        if add:
            m += param.weights[start - param.origin : stop - param.origin].float()
        out.copy_(m)

    def rows_(self, param: Param, index: torch.Tensor, out: torch.Tensor, *, parallel: bool = False) -> None:
        """One row after the other: quotients are for updates, which take ranges."""
        width, row = out.shape[-1], torch.empty(len(out), out.shape[-1], dtype=out.dtype)
        for place, number in enumerate(index.tolist()):
            self.write_(param, number * width, (number + 1) * width, row, parallel=parallel)
            out[:, place] = row
