"""The leaves of a model: which modules hold what is trained, and how each of them is perturbed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from zodist.directions import Param
from zodist.errors import ModelError
from zodist.evaluator.borrowed import Borrowed, foreign, trained
from zodist.evaluator.frame import Frame
from zodist.evaluator.head import Head
from zodist.evaluator.kinds import kind_of
from zodist.evaluator.leaf import Leaf


def leaves_of(frame: Frame, model: Any, params: Sequence[Param]) -> tuple[list[Leaf], bool]:
    """The leaves, the output layer always among them, and whether some can have only one point in a forward.

    Raises ModelError, with the parameter's name, where a parameter cannot be perturbed exactly.
    """
    by_storage = {p.storage: p for p in params}
    output = model.get_output_embeddings()
    if type(output) is not nn.Linear:
        raise ModelError(f"zodist needs a linear output layer, found {type(output).__name__}")
    whole = foreign(model, by_storage)
    if whole and not all(
        isinstance(p, Param) for p in params
    ):  # a shard's are whole while their own module runs
        path, places = next(iter(whole.items()))
        raise ModelError(
            f"{places[0].param.name}: zodist cannot perturb {type(model.get_submodule(path)).__name__} in a model "
            "that is cut into shards; leave it out with model.train"
        )
    lent = {id(place.holder) for places in whole.values() for place in places}
    inside = {id(module) for module in model.base_model.modules()}
    leaves: list[Leaf] = []
    for path, module in model.named_modules():
        own = {} if id(module) in lent else trained(module, by_storage)
        kind = kind_of(module)
        if path in whole:
            leaves.append(Borrowed(frame, module, whole[path], path))
        elif module is output:
            leaves.append(Head(frame, output, own, path))
        elif own and kind is not None:
            leaves.append(kind(frame, module, own, path, in_head=id(module) not in inside))
    found = {p.name for leaf in leaves for p in leaf.own.values()}
    missing = [p.name for p in params if p.name not in found]
    if missing:
        raise ModelError(
            f"{missing[0]} belongs to no module that zodist can perturb; leave it out with model.train"
        )
    return leaves, bool(whole)
