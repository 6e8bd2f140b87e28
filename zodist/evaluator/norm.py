"""Normalisations over the last axis: their own forward, with a weight of its own at every point.

Their few weights are perturbed in float32, since in 16 bits a weight near 1 would round eps away.  An RMS norm multiplies by
its weight as it stands, so it may have one for every point at once, spread over the axes between; torch's own norms have it
inside a kernel that takes a single one, and run once per point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import nn

from zodist.evaluator.leaf import Leaf


@final
class Norm(Leaf):
    """Layer norms and RMS norms.

    token_axis: that of the tokens in an input of four axes, [rows, tokens, heads, k] or [rows, heads, tokens, k], as
    zodist.evaluator.token_axis has found it; None: nobody asked, for rows end to end do not occur.
    """

    token_axis: int | None = None

    @property
    def _at_once(self) -> bool:
        return type(self.module) not in (nn.LayerNorm, nn.RMSNorm)

    def _axis(self, x: torch.Tensor) -> int:
        """Which axis of an activation has the tokens: some models fold rows into it, and heads stand on either side."""
        if x.dim() < 4:
            return 0 if x.dim() == 2 else 1
        return 1 if self.token_axis is None else self.token_axis

    @contextmanager
    def _holding(self, held: Mapping[str, Any]) -> Iterator[None]:
        """Give the module its parameters back at the end."""
        try:
            yield
        finally:
            self.module._parameters.update(held)

    def _values(self, held: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parameters at every point, float32 [points, size]."""
        frame, own = self.frame, self.own
        if len(own) == len(held) == 1:
            return {n: frame.whole(p, torch.float32) for n, p in own.items()}
        found = {n: p.float().expand(len(frame.points), *p.shape) for n, p in held.items() if n not in own}
        return found | {n: frame.whole(p, torch.float32).clone() for n, p in own.items()}

    def together(self, x: torch.Tensor) -> torch.Tensor:
        held = {name: p for name, p in self.module._parameters.items() if p is not None}
        values, axis, belonging = self._values(held), self._axis(x), self.belonging
        with self._holding(held):
            if self._at_once:
                seen = x
                for name, value in values.items():
                    self.module._parameters[name], seen = belonging.spread(value, x, axis)  # type: ignore[assignment]
                return self.original(seen).to(x.dtype).reshape(x.shape).contiguous()
            outputs = []
            for point, part in enumerate(belonging.split(x, axis, self.path)):
                self.module._parameters.update({name: value[point] for name, value in values.items()})  # type: ignore[arg-type]
                outputs.append(self.original(part).to(x.dtype))
            return belonging.joined(outputs, axis)

    def per_example(self, x: torch.Tensor) -> torch.Tensor:
        held = {name: p for name, p in self.module._parameters.items() if p is not None}
        shares, shape = self.shares, x.shape
        axis, x = self._axis(x) if x.dim() != 2 else 1, shares.unfolded(x)
        values = {name: p.float().expand(len(shares), *p.shape) for name, p in held.items()}
        for name, param in self.own.items():
            found = self.vector_shares(param)
            if found is not None:
                values[name] = param.weights.float() + found
        with self._holding(held):
            if self._at_once:
                spread = {n: shares.spread(v, x, axis, torch.float32) for n, v in values.items()}
                self.module._parameters.update(spread)  # type: ignore[arg-type]
                return self.original(x).to(x.dtype).view(shape)
            y = torch.empty_like(x)
            for share, place in enumerate(shares.places()):
                self.module._parameters.update({name: value[share] for name, value in values.items()})  # type: ignore[arg-type]
                y[place] = self.original(x[place]).to(x.dtype)
            return y.view(shape)


def is_norm(module: nn.Module) -> bool:
    """Whether zodist knows a module as a normalisation over the last axis."""
    return type(module) is nn.LayerNorm or type(module).__name__.endswith("RMSNorm")
