"""A parameter as directions and kernels see it: a name, a stable id, a shape, and the flat range of weights held here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zodist import noise
from zodist.kernels import BFLOAT16, FLOAT16, FLOAT32, HOST, Kernels, Noise

KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}


@dataclass(frozen=True, eq=False, slots=True)
class Param:
    """One trainable parameter.

    id: the noise address, a hash of the name, so that neither order nor frozen neighbours change a direction.
    weights: the held numbers, flat and contiguous; number ``origin`` of the whole first.  They are what is perturbed,
    updated, digested and kept in snapshots.
    model: the model's own storage, flat.  The same tensor as weights, or, with a float32 master copy, what it is rounded
    to after every update.
    kernels: those of the device that the weights are on.
    """

    name: str
    id: int
    shape: tuple[int, ...]
    weights: torch.Tensor
    model: torch.Tensor
    origin: int = 0
    kernels: Kernels = HOST

    def publish(self) -> None:
        """Bring the model's storage up to date with the weights."""
        if self.model is not self.weights:
            self.model.copy_(self.weights)

    @property
    def kind(self) -> int:
        """The kernels' number for the dtype of the weights."""
        return KINDS[self.weights.dtype]

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    @property
    def storage(self) -> int:
        """By what a module's tensor is known to be this parameter, see ``storage_of``."""
        return storage_of(self.model)

    @property
    def words(self) -> Any:
        """The held weights as the kernels take them."""
        return as_words(self.weights, self.kernels)


def as_words(tensor: torch.Tensor, kernels: Kernels = HOST) -> Any:
    """A contiguous float tensor's numbers as flat unsigned words, uint32 for float32, else uint16; memory is shared."""
    unsigned = torch.uint32 if tensor.dtype == torch.float32 else torch.uint16
    plain = tensor.detach() if tensor.requires_grad else tensor
    return kernels.view(plain.view(unsigned)).reshape(-1)


def storage_of(value: torch.Tensor) -> int:
    """What tells a module's parameters apart: where the numbers lie, or else the object, whose numbers are elsewhere."""
    return (value.data_ptr() if type(value.data) is torch.Tensor else 0) or id(value)


def address(name: str) -> int:
    """The 32-bit noise address of a parameter's name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")


def drawn(param: Param, law: int, keys: Any, tables: Any) -> Noise:
    """The numbers of a parameter's directions, role Z, for the kernels.  keys, tables: as these take them."""
    return Noise(law, keys, tables, np.uint64(param.id), np.uint64(noise.Z))
