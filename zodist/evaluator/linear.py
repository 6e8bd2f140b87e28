"""Linear layers: a product with a matrix of its own at each point, as one batched GEMM.

A low-rank direction is never added to the weights: y = x W^T + (x right^T) left^T.
"""

from __future__ import annotations

from typing import final

import torch

from zodist.directions import LaidLowRank
from zodist.evaluator.leaf import Leaf


class _Product(Leaf):
    """What both ways to hold a matrix share.  turned: whether the weight is [in, out], GPT-2's way."""

    turned: bool

    def together(self, x: torch.Tensor) -> torch.Tensor:
        """Large matrices go in cache-sized pieces."""
        belonging, weight, bias = self.belonging, self.own.get("weight"), self.own.get("bias")
        stacked = belonging.gathered(x, self.path)
        laid = None if weight is None else self.frame.points.laid(weight)
        if weight is None or laid is None:
            y = stacked @ self.matrix()
        elif isinstance(laid, LaidLowRank):
            y = belonging.add_thin_(stacked @ self.matrix(), stacked, laid, transpose=not self.turned)
        else:
            y = self.perturbed(stacked)
        if bias is not None:
            belonging.add_vector_(y, self.frame.whole(bias))
        elif self.module.bias is not None:
            y.add_(self.module.bias)  # type: ignore[arg-type]
        return y.view(*x.shape[:-1], -1)

    def matrix(self) -> torch.Tensor:
        """The weights themselves, [in, out]."""
        weight: torch.Tensor = self.module.weight  # type: ignore[assignment]
        return weight if self.turned else weight.t()

    def perturbed(self, stacked: torch.Tensor) -> torch.Tensor:
        """The product with the perturbed matrix of each token's point."""
        whole = self.frame.whole(self.own["weight"])
        return self.belonging.times(stacked, whole if self.turned else whole.transpose(1, 2))

    def per_example(self, x: torch.Tensor) -> torch.Tensor:
        """x W^T + ((x * s) U^T) * r; where the weight is turned, its rows and columns change places."""
        shape, shares = x.shape, self.shares
        x = shares.unfolded(x)
        y = self.original(x.contiguous())
        weight, bias = self.own.get("weight"), self.own.get("bias")
        found = None if weight is None else self.factors(weight)
        if weight is not None and found is not None:
            outer, inner = (found[1], found[0]) if self.turned else found[:2]
            if found[2]:
                noise = self.shared(weight)
                product = (x * shares.spread(inner, x)) @ (noise if self.turned else noise.t())
                y = y + product * shares.spread(outer, y)
            else:
                y = shares.add_outer_(y, x, outer, inner)
        added = None if bias is None else self.vector_shares(bias)
        if added is not None:
            y = y + shares.spread(added, y)
        return y.view(*shape[:-1], -1)


@final
class Linear(_Product):
    """nn.Linear: weight [out, in]."""

    turned = False

    def perturbed(self, stacked: torch.Tensor) -> torch.Tensor:
        """Rows of a large matrix at a time, so that they are still in cache when they are multiplied."""
        module, frame, belonging = self.module, self.frame, self.belonging
        rows, width = module.out_features, module.in_features
        assert isinstance(rows, int) and isinstance(width, int)
        if rows * width <= 2 * frame.piece:
            return super().perturbed(stacked)
        step, points = max(1, frame.piece // width), len(frame.points)
        y = stacked.new_empty(*stacked.shape[:-1], rows)
        for row in range(0, rows, step):
            stop = min(row + step, rows)
            span = frame.span(self.own["weight"], row * width, stop * width)
            y[..., row:stop] = belonging.times(stacked, span.view(points, stop - row, -1).transpose(1, 2))
        return y


@final
class TurnedLinear(_Product):
    """GPT-2's Conv1D: weight [in, out]."""

    turned = True
