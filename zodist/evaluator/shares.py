"""Forwards in which every example of a batch has a point of its own: what each gets of it, and which tokens it has.

A direction of an example is a noise that all share, with the signs of some rows and columns changed: U * (r_i s_i^T).
Then x (W + U * r s^T)^T = x W^T + ((x * s) U^T) * r: one more product with the shared U, whatever the number of examples,
and no matrix per example.  An outer product r s^T alone costs less still: x W^T + (x s) r^T.  The copies of the batch differ
in the share of its own point that an example gets: all, minus all, or nothing.  Below, S is the number of shares, copies
times examples, and an activation is [S, T, k], or [copies, tokens, k] where examples are packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class Shares:
    """amount: float32 [S], how much of its point an example gets: +1, -1, or 0 for the weights.

    Share n is at point n mod the number of points.  lead: the length of dim 0.  owners: int64 [tokens], the example of each
    token of a copy, on the CPU, where dim 0 has the copies alone; None: where it has the examples, one row each.
    """

    def __init__(self, amount: Tensor, lead: int, owners: Tensor | None) -> None:
        device = amount.device
        self.amount, self.lead, self.owners = amount, lead, None
        self.members: Sequence[Tensor] = ()
        if owners is not None:  # asked of the device, whose tokens are whose would make the host wait
            found = (owners == torch.arange(int(owners.max()) + 1)[:, None]).nonzero()[:, 1]
            self.members = found.to(device, non_blocking=True).split(owners.bincount().tolist())
            self.owners = owners.to(device, non_blocking=True)

    def __len__(self) -> int:
        return len(self.amount)

    def last(self, tokens: int) -> Shares:
        """The same for the last tokens of every copy alone, whose logits enter the loss."""
        found = Shares(self.amount, self.lead, None)
        if self.owners is not None:
            found.owners = self.owners[-tokens:]
        return found

    def of_points(self, values: Tensor) -> Tensor:
        """What each share's point has, [S, k], of the points' [points, k]."""
        return values[torch.arange(len(self), device=values.device) % len(values)]

    def spread(self, values: Tensor, like: Tensor, axis: int = 1, dtype: torch.dtype | None = None) -> Tensor:
        """What each share has, [S, k], to go with an activation, in its dtype.  axis: that of the tokens in ``like``."""
        values = values.to(dtype or like.dtype)
        if self.owners is None:
            return values.view(values.shape[0], *(1,) * (like.dim() - 2), values.shape[1])
        own = values.view(self.lead, -1, values.shape[1])[:, self.owners]
        shape = [1] * like.dim()
        shape[0], shape[axis], shape[-1] = own.shape
        return own.view(shape)

    def add_outer_(self, y: Tensor, x: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
        """Add (x . inner) outer to y, with the vectors of each token's own example: [S, m] and [S, k]."""
        inner, outer = (v.to(x.dtype).view(self.lead, -1, v.shape[1]) for v in (inner, outer))
        along = torch.bmm(x, inner.transpose(1, 2))
        if self.owners is not None:
            # With every example's vector, and all but the own one set to zero: small products, and no vector per token.
            along *= self.owners[:, None] == torch.arange(along.shape[2], device=along.device)
        return y.baddbmm_(along, outer)

    def look_up(self, values: Tensor, place: Tensor) -> Tensor:
        """A number of each share for every token, [lead, T], of values [S, n] at the places int64 [lead or 1, T]."""
        numbers = place.expand(self.lead, -1)
        if self.owners is None:
            return torch.gather(values, 1, numbers)
        return values.view(self.lead, -1, values.shape[1])[
            :, self.owners, numbers[0]
        ]  # every copy has the same tokens

    def unfolded(self, x: Tensor) -> Tensor:
        """Some models fold rows and positions into one axis, [n, k]: back to [dim 0, tokens, k]."""
        return x.reshape(self.lead, -1, x.shape[-1]) if x.dim() == 2 else x

    def places(self) -> Iterator[tuple[Any, ...]]:
        """Where the tokens of each share stand in [dim 0, tokens, ...]."""
        if self.owners is None:
            yield from ((slice(n, n + 1),) for n in range(self.lead))
            return
        for copy in range(self.lead):
            yield from ((copy, tokens) for tokens in self.members)
