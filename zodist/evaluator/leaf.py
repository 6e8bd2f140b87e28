"""A module that holds trained parameters, and how it runs at several points in one forward without writing to its weights.

A leaf perturbs its own parameters into the frame's scratch for the time of its call: base noise once, one copy per point.
What cannot be done exactly is refused by name when the evaluator is made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zodist.directions import LaidRankOne, LaidSigned, Param, matrix_shape
from zodist.errors import ModelError
from zodist.evaluator.belonging import Belonging
from zodist.evaluator.frame import Frame
from zodist.evaluator.shares import Shares

Forward = Callable[..., torch.Tensor]


class Leaf(ABC):
    """How one kind of module runs while a frame is active.

    own: its trained parameters, by the names that it has for them.  path: its own name in the model, for messages.
    in_head: whether it sees only the tokens whose logits enter the loss.
    """

    def __init__(
        self, frame: Frame, module: nn.Module, own: dict[str, Param], path: str, *, in_head: bool = False
    ) -> None:
        self.frame, self.module, self.own, self.path, self.in_head = frame, module, own, path, in_head
        self.original: Forward = module.forward

    @abstractmethod
    def together(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The module at all points of the frame, each with its own rows."""

    @abstractmethod
    def per_example(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The module with a point of its own for every example of the batch (zodist.evaluator.shares)."""

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the frame says: as it is where no point is asked for."""
        if self.frame.shares is not None:
            return self.per_example(*args, **kwargs)
        if not len(self.frame.points):
            return self.unmoved(*args, **kwargs)
        return self.together(*args, **kwargs)

    def unmoved(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The module at the weights themselves."""
        return self.original(*args, **kwargs)

    @property
    def belonging(self) -> Belonging:
        """Which point each token of its input belongs to."""
        return self.frame.head if self.in_head else self.frame.body

    @property
    def shares(self) -> Shares:
        """What each example has of its own point."""
        found = self.frame.head_shares if self.in_head else self.frame.shares
        assert found is not None
        return found

    def factors(
        self, param: Param, places: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, bool] | None:
        """Left vectors times weight and share, [S, m], and right vectors, [S, n]; None: the weights themselves.

        The third says whether a noise is shared by all; else a direction is the outer product of the two vectors.
        places: the left vectors' numbers that are wanted, if not all.
        """
        laid, shares = self.frame.points.laid(param), self.shares
        if laid is None:
            return None
        if not isinstance(laid, (LaidSigned, LaidRankOne)):
            raise ModelError(f"{param.name}: this method's directions cannot be given to single examples")
        left, right = laid.vectors(None if places is None else param.kernels.view(places))
        left, right = shares.of_points(torch.as_tensor(left)), shares.of_points(torch.as_tensor(right))
        return left * shares.amount[:, None], right, isinstance(laid, LaidSigned)

    def shared(self, param: Param, index: torch.Tensor | None = None) -> torch.Tensor:
        """The noise U of a parameter in its shape and dtype, or some rows of it: in scratch, overwritten by the next."""
        frame, laid = self.frame, self.frame.points.laid(param)
        assert isinstance(laid, LaidSigned)
        m, n = matrix_shape(param.shape)
        rows = torch.arange(m, device=param.weights.device) if index is None else index
        out = frame.scratch(param.model.dtype, 1, len(rows), n)
        laid.write_noise_(param, rows, out, parallel=frame.parallel)
        return out.view(param.shape) if index is None else out[0]

    def vector_shares(self, param: Param) -> torch.Tensor | None:
        """The perturbation of a vector for every share, float32 [S, n]; None where there is none."""
        found = self.factors(param)
        if found is None:
            return None
        left, right, noisy = found
        return left * right * self.shared(param).float().view(1, -1) if noisy else left * right
