"""Which leaf a module is, of those that zodist knows to be exact."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

from zodist.evaluator.embedding import Embedding
from zodist.evaluator.leaf import Leaf
from zodist.evaluator.linear import Linear, TurnedLinear
from zodist.evaluator.norm import Norm, is_norm


def kind_of(module: nn.Module) -> type[Leaf] | None:
    """How a leaf of this type is perturbed; None where zodist does not know it to be exact."""
    if isinstance(module, nn.Embedding):
        return Embedding
    if type(module) is nn.Linear:  # not a subclass, which may do something else
        return Linear
    if type(module) is Conv1D:
        return TurnedLinear
    return Norm if is_norm(module) else None
