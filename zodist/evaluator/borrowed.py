"""Modules of kinds that zodist does not know: perturbed copies stand in for their weights, at one point per forward.

A state-space mixer that reads the weights of its children, the experts of a mixture in one tensor, a scale that an adapter
keeps in a list: whatever a module does with its weights, with others in their place it does the same.  The copies live for
the module's own forward, so that the memory they take is that of one module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from zodist.directions import Param, storage_of
from zodist.errors import ModelError
from zodist.evaluator.frame import Frame
from zodist.evaluator.kinds import kind_of
from zodist.evaluator.leaf import Leaf


@dataclass(frozen=True, eq=False, slots=True)
class Place:
    """Where a module below keeps a trained parameter."""

    holder: nn.Module
    name: str
    param: Param


def trained(module: nn.Module, by_storage: Mapping[int, Param]) -> dict[str, Param]:
    """The trained parameters that a module itself holds, by the names it has for them."""
    held = {name: p for name, p in module._parameters.items() if p is not None}
    return {name: by_storage[at] for name, p in held.items() if (at := storage_of(p)) in by_storage}


def foreign(model: nn.Module, by_storage: Mapping[int, Param]) -> dict[str, list[Place]]:
    """The modules that run with copies in place of their weights, by path, and those weights, children's too.

    A module of an unknown kind that holds a trained parameter; what cannot be called, such as a list of parameters, is part
    of the module around it.
    """
    modules, paths = dict(model.named_modules()), []
    for path, module in modules.items():
        if not trained(module, by_storage) or kind_of(module) is not None:
            continue
        while path and type(modules[path]).forward is nn.Module.forward:
            path = path.rpartition(".")[0]
        if not any(_within(path, other) for other in paths):
            paths = [other for other in paths if not _within(other, path)] + [path]
    return {path: _places(modules[path], by_storage) for path in paths}


def _within(path: str, other: str) -> bool:
    return path == other or not other or path.startswith(f"{other}.")


def _places(module: nn.Module, by_storage: Mapping[int, Param]) -> list[Place]:
    inner = module.modules()
    return [Place(m, name, param) for m in inner for name, param in trained(m, by_storage).items()]


@final
class Borrowed(Leaf):
    """A module's own forward, with copies at the frame's only point in place of its weights and its children's."""

    def __init__(self, frame: Frame, module: nn.Module, places: list[Place], path: str) -> None:
        super().__init__(frame, module, {place.param.name: place.param for place in places}, path)
        self._places = places

    def together(self, *args: Any, **kwargs: Any) -> Any:
        frame, held = self.frame, [place.holder._parameters[place.name] for place in self._places]
        copies: dict[int, torch.Tensor] = {}
        try:
            for place in self._places:
                param = place.param
                laid = frame.points.laid(param)
                if laid is None:
                    continue
                if param.id not in copies:  # tied weights are perturbed alike
                    numbers = param.weights.numel()
                    copy = torch.empty(1, numbers, dtype=param.model.dtype, device=frame.device)
                    laid.write_(param, 0, numbers, copy, parallel=frame.parallel)
                    copies[param.id] = copy.view(param.shape)
                place.holder._parameters[place.name] = copies[param.id]  # type: ignore[assignment]
            return self.original(*args, **kwargs)
        finally:
            for place, parameter in zip(self._places, held, strict=True):
                place.holder._parameters[place.name] = parameter

    def per_example(self, *args: Any, **kwargs: Any) -> Any:
        """Refused, in one sentence."""
        raise ModelError(
            f"{', '.join(self.own)}: zodist cannot give single examples directions in {type(self.module).__name__}; leave "
            "it out with model.train, or choose a method whose directions are the same for all examples of a batch"
        )
