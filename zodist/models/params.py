"""The parameters of a model that a run trains: which they are, their digest, and which model this is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
import torch

from zodist.directions import KINDS, Param, address
from zodist.errors import ModelError
from zodist.kernels import kernels_of


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
        found = p.kernels.digest.of(p.weights.numel(), parallel)(p.words, p.origin, np.uint64(p.id))
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
