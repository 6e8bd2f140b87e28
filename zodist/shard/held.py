"""One parameter of a sharded model: the range that this worker holds for good, and the whole while a layer runs."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from zodist.directions import KINDS, Param, address, as_words, storage_of
from zodist.kernels import Kernels, kernels_of

Place = tuple[nn.Module, str]  # a module, and a parameter's name in it


@dataclass(frozen=True, eq=False, slots=True)
class Held:
    """A parameter as its sharding library keeps it.

    own: this worker's numbers, flat, number ``origin`` of the whole first, in the storage that the library gathers from.
    place: where the gathered tensor is found while a forward is inside a module that has the parameter.
    """

    name: str
    shape: tuple[int, ...]
    origin: int
    own: torch.Tensor
    place: Place

    @property
    def whole(self) -> torch.Tensor:
        """What the module has at present: the gathered tensor while it runs."""
        module, name = self.place
        return dict.__getitem__(module._parameters, name)  # DeepSpeed's own look-up gathers what is not there

    def param(self) -> Param:
        """The held range, which updates move."""
        kernels = kernels_of(self.own.device)
        return Param(
            self.name, address(self.name), self.shape, self.own, self.own, self.origin, kernels=kernels
        )


@dataclass(frozen=True, eq=False, slots=True)
class Gathered:
    """What a leaf module sees of a parameter: as zodist.directions.Param, but whole, and looked up when it is asked for."""

    held: Held
    id: int
    device: torch.device
    kernels: Kernels
    storage: int
    origin: int = 0

    @classmethod
    def of(cls, held: Held, device: torch.device) -> Gathered:
        """The gathered form of a parameter.  device: where it is gathered."""
        return cls(held, address(held.name), device, kernels_of(device), storage_of(held.whole))

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self.held.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole parameter's shape."""
        return self.held.shape

    @property
    def weights(self) -> torch.Tensor:
        """All numbers, flat.  Nobody may write to them: in a group of one they are the held ones."""
        return self.held.whole.detach().view(-1)

    @property
    def model(self) -> torch.Tensor:
        """The same numbers."""
        return self.weights

    @property
    def kind(self) -> int:
        """The kernels' number for the dtype of the weights."""
        return KINDS[self.held.own.dtype]

    @property
    def words(self) -> Any:
        """The weights as the kernels take them."""
        weights = self.weights
        return as_words(weights, self.kernels) if weights.is_cuda else _words_at(weights)


def _words_at(weights: torch.Tensor) -> np.ndarray:
    """A CPU tensor's numbers as unsigned words, by their address.

    torch's own way to numpy forbids that the storage is ever resized, and FSDP2 frees what it has gathered by resizing.
    """
    size = weights.element_size()
    memory: Any = (ctypes.c_char * (weights.numel() * size)).from_address(weights.data_ptr())
    return np.frombuffer(memory, np.uint32 if size == 4 else np.uint16)


@dataclass(frozen=True, eq=False, slots=True)
class Cut:
    """What has become of a model.  engine: what must live as long as the model, or its hooks go."""

    held: list[Held]
    engine: Any = None


def places_of(model: nn.Module) -> dict[str, list[Place]]:
    """Every parameter's places by its name, which is that of the first; a tied one has several."""
    found: dict[int, tuple[str, list[Place]]] = {}
    for path, module in model.named_modules():
        for name, value in module._parameters.items():
            if value is not None:
                whole = f"{path}.{name}" if path else name
                found.setdefault(id(value), (whole, []))[1].append((module, name))
    return dict(found.values())


def put(places: list[Place], tensor: torch.Tensor) -> nn.Parameter:
    """Make a tensor the parameter at all its places."""
    made = nn.Parameter(tensor, requires_grad=False)
    for module, name in places:
        module._parameters[name] = made
    return made


def chunk(total: int, size: int, place: int) -> tuple[int, int]:
    """First and end of one of ``size`` equal parts, the last ones shorter or empty: as both libraries cut."""
    part = -(-total // size)
    return min(place * part, total), min((place + 1) * part, total)
