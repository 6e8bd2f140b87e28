"""Batches as a caller gives them: looked up by number, and named by what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from zodist.errors import TaskError


def indexed(data: Any, what: str) -> Sequence[Any]:
    """Data that can be looked up by number: as they are, or, of something that is only iterated over, as a list.

    Raises TaskError where there is nothing to train on.
    """
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) or isinstance(data, Mapping):
        if isinstance(data, Mapping) or not isinstance(data, Iterable):
            raise TaskError(
                f"{what} is {type(data).__name__}; give a sequence of batches, or something to iterate over"
            )
        data = list(data)
    if not len(data):
        raise TaskError(f"{what} holds no batch; give at least one")
    return data


def content(parts: Sequence[Any]) -> str:
    """16 hexadecimal digits over texts as they are, and over the length, first and last item of sequences of batches."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            digest.update(str(len(part)).encode())
            for item in (part[0], part[len(part) - 1]) if len(part) else ():
                _add(digest, item)
    return digest.hexdigest()[:16]


def _add(digest: Any, item: Any) -> None:
    if isinstance(item, torch.Tensor):
        held = item.detach().to("cpu").contiguous()
        digest.update(f"{held.dtype} {tuple(held.shape)}".encode())
        digest.update(held.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(item, np.ndarray):
        digest.update(f"{item.dtype} {item.shape}".encode())
        digest.update(np.ascontiguousarray(item).tobytes())
    elif isinstance(item, Mapping):
        for key in item:
            digest.update(repr(key).encode())
            _add(digest, item[key])
    elif isinstance(item, (list, tuple)):
        digest.update(f"{len(item)}".encode())
        for each in item:
            _add(digest, each)
    elif item is None or isinstance(item, (str, bytes, int, float, bool)):
        digest.update(repr(item).encode())
    else:  # what an object holds is its own matter
        digest.update(type(item).__qualname__.encode())
