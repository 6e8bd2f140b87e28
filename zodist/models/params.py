"""Parameters as a run sees them: a name, a stable id, a shape, and the flat range of weights held here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zodist.errors import ModelError
from zodist.kernels.device import HOST, Kernels, kernels_of
from zodist.kernels.tile import BFLOAT16, FLOAT16, FLOAT32

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


def collect(model: torch.nn.Module, pattern: str = "", *, master: bool = False) -> list[Param]:
    """The parameters whose name matches a regular expression (all for ""), in the model's order; tied ones once.

    Of a model in which some parameters require a gradient and others do not, these alone.
    master: keep 16-bit weights as a float32 copy of their own, 4 bytes a trained weight.

    Raises ModelError when none matches, or one has a dtype or a layout that cannot be perturbed exactly.
    """
    params = []
    named = list(model.named_parameters())
    for name, p in select([(name, p) for name, p in named if p.requires_grad] or named, pattern):
        if not p.is_contiguous():
            raise ModelError(f"parameter {name!r} must be contiguous, found strides {p.stride()}")
        flat = p.detach().view(-1)
        held = flat.float() if master else flat
        params.append(Param(name, address(name), tuple(p.shape), held, flat, kernels=kernels_of(p.device)))
    return params


def select(named: Sequence[tuple[str, torch.Tensor]], pattern: str) -> list[tuple[str, torch.Tensor]]:
    """Those whose name matches a regular expression.

    Raises ModelError when none does, or one has a dtype that cannot be perturbed exactly, or two have one address.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ModelError(f"model.train = {pattern!r} is not a regular expression: {error}") from error
    chosen = [(name, p) for name, p in named if wanted.search(name)]
    if not chosen:
        some = ", ".join(name for name, _ in named[:3])
        raise ModelError(f"model.train = {pattern!r} matches no parameter; names look like {some}")
    owner: dict[int, str] = {}
    for name, p in chosen:
        if p.dtype not in KINDS:
            raise ModelError(
                f"parameter {name!r} is {p.dtype}; zodist trains float32, bfloat16 and float16 only"
            )
        first = owner.setdefault(address(name), name)
        if first != name:
            raise ModelError(f"parameters {first!r} and {name!r} share a noise address; rename one of them")
    return chosen


def digest(params: Sequence[Param], *, parallel: bool = False) -> int:
    """64-bit hash of the weights: a sum, so shards add up to the whole and any order gives the same."""
    total = 0
    for p in params:
        found = p.kernels.digest[parallel](p.words, p.origin, np.uint64(p.id))
        total = (total + int(found)) & 0xFFFFFFFFFFFFFFFF
    return total


def fingerprint(model: torch.nn.Module) -> str:
    """16 hex digits over names, shapes, dtypes and every weight, frozen ones too: which model this is."""
    total = 0
    names = hashlib.blake2b(digest_size=8)
    for name, p in model.named_parameters():
        names.update(described(name, tuple(p.shape), p.dtype))
        if p.dtype in KINDS:
            flat = p.detach().contiguous().view(-1)
            total += digest(
                [Param(name, address(name), tuple(p.shape), flat, flat, kernels=kernels_of(p.device))]
            )
        else:
            names.update(p.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sealed(total, names.digest())


def described(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> bytes:
    """A parameter's line in a fingerprint."""
    return f"{name} {shape} {dtype}\n".encode()


def sealed(total: int, names: bytes) -> str:
    """The fingerprint of weights with this digest and parameters of this 64-bit hash."""
    return f"{(total ^ int.from_bytes(names, 'little')) & 0xFFFFFFFFFFFFFFFF:016x}"
