"""Embeddings: only the rows that occur are perturbed.  What a subclass does around the look-up stays its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from zodist.directions import Param
from zodist.errors import ModelError
from zodist.evaluator.frame import Frame
from zodist.evaluator.leaf import Leaf


class _Lookup(TorchFunctionMode):
    """Inside an embedding's own forward, look rows up by ``find`` instead of in the weights."""

    def __init__(self, module: nn.Module, find: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """find: gives the rows, [..., width], of ids [...]."""
        super().__init__()
        self.module, self.find = module, find

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: D105
        kwargs = kwargs or {}
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if func is not F.embedding or weight is not self.module.weight:
            return func(*args, **kwargs)
        return self.find(args[0])


@final
class Embedding(Leaf):
    """nn.Embedding and its subclasses."""

    def __init__(
        self, frame: Frame, module: nn.Module, own: dict[str, Param], path: str, *, in_head: bool = False
    ) -> None:
        """Raises ModelError for an embedding that writes to its weights."""
        super().__init__(frame, module, own, path, in_head=in_head)
        if module.max_norm is not None:
            raise ModelError(
                f"{path}: an embedding with max_norm writes to its weights; zodist cannot perturb it"
            )
        self._param = own["weight"]
        self._together, self._per_example = _Lookup(module, self._find), _Lookup(module, self._find_shares)

    def together(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self._together:
            return self.original(*args, **kwargs)

    def _find(self, ids: torch.Tensor) -> torch.Tensor:
        index, place = self.frame.distinct(ids)
        return self.belonging.look_up(self.frame.rows(self._param, index), place, self.path)

    def per_example(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self._per_example:
            return self.original(*args, **kwargs)

    def _find_shares(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows looked up, plus those of the perturbation: r at the row's number times U's row times s."""
        param, shares = self._param, self.shares
        index, place = self.frame.distinct(ids)
        y, found = param.model.view(param.shape)[index][place], self.factors(param, index)
        if found is None:
            return y
        left, right, noisy = found
        amount = shares.look_up(left, place).unsqueeze(-1) * shares.spread(right, y)
        if noisy:
            amount = amount * self.shared(param, index)[place].float()
        return y + amount.to(y.dtype)
