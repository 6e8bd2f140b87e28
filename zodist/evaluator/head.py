"""The output projection: only the vocabulary entries that enter the loss are computed (``Frame.columns``).

These few are computed in float32: a logit of 16 in bfloat16 is rounded by up to 1/16, which is more than a perturbation
changes in the loss of one example.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import nn

from zodist.directions import Param
from zodist.evaluator.frame import Frame
from zodist.evaluator.leaf import Leaf
from zodist.evaluator.linear import Linear


@final
class Head(Leaf):
    """The model's last linear layer, trained or not."""

    def __init__(self, frame: Frame, module: nn.Linear, own: dict[str, Param], path: str) -> None:
        super().__init__(frame, module, own, path, in_head=True)
        self._linear = Linear(frame, module, own, path, in_head=True)  # where all entries enter
        self._weight, self._bias = own.get("weight"), own.get("bias")

    def unmoved(self, x: torch.Tensor) -> torch.Tensor:
        if self.frame.columns is not None:
            return self._columns(x, self.frame.columns)
        return F.linear(x.contiguous(), self.module.weight, self.module.bias)  # type: ignore[arg-type]

    def together(self, x: torch.Tensor) -> torch.Tensor:
        if self.frame.columns is not None:
            return self._columns(x, self.frame.columns)
        return self._linear.together(x) if self.own else self.unmoved(x)

    def _columns(self, x: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        belonging, frame, points = self.belonging, self.frame, len(self.frame.points)
        stacked = belonging.gathered(x, self.path).float()
        if self._weight is None or not points:
            chosen = self.module.weight[columns].float().expand(belonging.points, -1, -1)  # type: ignore[index]
        else:
            chosen = frame.rows(self._weight, columns, torch.float32)
        y = belonging.times(stacked, chosen.transpose(1, 2))
        if self._bias is not None and points:
            belonging.add_vector_(y, frame.whole(self._bias, torch.float32)[:, columns])
        elif self.module.bias is not None:
            y.add_(self.module.bias[columns])  # type: ignore[index]
        return y.view(*x.shape[:-1], -1)

    def per_example(self, x: torch.Tensor) -> torch.Tensor:
        columns, shares = self.frame.columns, self.shares
        if columns is None:
            return self._linear.per_example(x)
        x = x.float().contiguous()
        weight, bias = self.module.weight, self.module.bias
        y = F.linear(x, weight[columns].float(), None if bias is None else bias[columns].float())  # type: ignore[index]
        found = None if self._weight is None else self.factors(self._weight, columns)
        if self._weight is not None and found is not None:
            left, right, noisy = found
            product = x * shares.spread(right, x)
            if noisy:
                product = product @ self.shared(self._weight, columns).float().t()
            else:
                product = product.sum(-1, keepdim=True)
            y = y + product * shares.spread(left, y)
        added = None if self._bias is None else self.vector_shares(self._bias)
        if added is not None:
            y = y + shares.spread(added, x)[..., columns]
        return y
