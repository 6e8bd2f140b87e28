"""The weights of a model folder, read tensor by tensor and, of a tensor, only the part that is wanted.

safetensors files are read and not mapped: the package maps a whole file as private memory, which a limit on a process's
memory counts.  Checkpoints of torch.save are mapped by torch, with the unpickler that takes tensors and nothing else.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, final

import torch

from zodist.errors import ModelError
from zodist.journal import DTYPES

SAVED, PICKLED = "model.safetensors", "pytorch_model.bin"
_PIECE, _LONGEST = (
    1 << 22,
    100_000_000,
)  # bytes read at a time; of a header, the limit of the safetensors package
_BY_NAME = {name: dtype for dtype, name in DTYPES.items()}


class _File(ABC):
    """One file of weights."""

    @abstractmethod
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """What it holds."""

    @abstractmethod
    def read_(self, key: str, first: int, out: torch.Tensor) -> None:
        """Fill a flat tensor with numbers of one of its tensors from ``first`` on, in the dtype and on the device of out."""


@final
class _Safetensors(_File):
    def __init__(self, path: Path) -> None:
        self._file: BufferedReader = path.open("rb")
        length = int.from_bytes(self._file.read(8), "little")
        if length > _LONGEST:
            raise ValueError("its header is too long")
        self._begin = 8 + length
        header = json.loads(self._file.read(length))
        header.pop("__metadata__", None)
        self._entries = {key: _entry(key, found) for key, found in header.items()}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {key: shape for key, (_, shape, _) in self._entries.items()}

    def read_(self, key: str, first: int, out: torch.Tensor) -> None:
        name, _, begin = self._entries[key]
        dtype = _BY_NAME[name]
        staged = torch.empty(min(_PIECE // dtype.itemsize, out.numel()), dtype=dtype)
        words = staged.view(torch.uint8).numpy().data
        self._file.seek(self._begin + begin + first * dtype.itemsize)
        for start in range(0, out.numel(), len(staged)):
            count = min(len(staged), out.numel() - start)
            size = count * dtype.itemsize
            if self._file.readinto(words[:size]) != size:
                raise EOFError(f"it ends within {key!r}")
            out[start : start + count].copy_(staged[:count])


def _entry(key: str, found: Any) -> tuple[str, tuple[int, ...], int]:
    """Dtype, shape and first byte of a tensor as a header has them.  Raises ValueError where that cannot be."""
    try:
        dtype, shape, (begin, end) = found["dtype"], tuple(found["shape"]), found["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"its header does not describe {key!r}") from None
    sound = all(type(number) is int and 0 <= number < 1 << 53 for number in (*shape, begin, end))
    if not sound or (dtype in _BY_NAME and end - begin != math.prod(shape) * _BY_NAME[dtype].itemsize):
        raise ValueError(f"its header gives {key!r} bytes that cannot be")
    return dtype, shape, begin


@final
class _Pickled(_File):
    def __init__(self, path: Path) -> None:
        if tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 6):
            raise ValueError("torch below 2.6 may run code that such a file hides, CVE-2025-32434")
        self._tensors: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        self._shapes = {key: tuple(value.shape) for key, value in self._tensors.items()}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def read_(self, key: str, first: int, out: torch.Tensor) -> None:
        out.copy_(self._tensors[key].reshape(-1)[first : first + out.numel()])


@final
class WeightFiles:
    """The weights of a Hugging Face model: model.safetensors, else pytorch_model.bin, each in one file or by its index.

    folder: where they lie.  name: the model's, for messages.  prefix: of the base model's parameters, which some
    checkpoints leave out.
    """

    def __init__(self, folder: Path, name: str, prefix: str) -> None:
        self.folder, self.name, self.prefix = folder, name, prefix
        self._open: dict[str, _File] = {}
        for single in (SAVED, PICKLED):
            index = folder / f"{single}.index.json"
            if index.exists():
                try:
                    held = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                    self._file_of = {key: str(file) for key, file in held.items()}
                except Exception as error:  # of the disk, or of JSON that is no index
                    raise self._unreadable(index.name, error) from error
                return
            if (folder / single).exists():
                self._file_of = dict.fromkeys(self._opened(single).shapes(), single)
                return
        raise ModelError(
            f"{name!r} has neither {SAVED} nor {PICKLED}, in one file or with an index; load it with transformers once and "
            "write it anew with save_pretrained"
        )

    def read_(self, name: str, shape: tuple[int, ...], first: int, out: torch.Tensor) -> None:
        """Fill a flat tensor with the numbers of a parameter, seen flat, from ``first`` on; no others are read.

        Raises ModelError where the files lack the parameter, have another shape for it, or cannot be read.
        """
        key = self._key(name)
        place = self._file_of[key]
        file = self._opened(place)
        found = file.shapes().get(key)
        if found != shape:
            raise ModelError(
                f"{self.name!r}: {key!r} has shape {found} in the files and {shape} in the model; write it anew with "
                "save_pretrained"
            )
        if first + out.numel() > math.prod(shape):
            raise ValueError(
                f"{name} has {math.prod(shape)} numbers, asked for those up to {first + out.numel()}"
            )
        if out.numel():
            try:
                file.read_(key, first, out)
            except (OSError, EOFError, KeyError) as error:
                raise self._unreadable(place, error) from error

    def _key(self, name: str) -> str:
        for key in (name, name.removeprefix(f"{self.prefix}."), f"{self.prefix}.{name}"):
            if key in self._file_of:
                return key
        raise ModelError(
            f"{self.name!r} has no weights for {name!r} under that name; load it with transformers once and write it anew "
            "with save_pretrained"
        )

    def _opened(self, file: str) -> _File:
        if file not in self._open:
            kind = _Pickled if file.endswith(".bin") else _Safetensors
            try:
                self._open[file] = kind(self.folder / file)
            except (
                Exception
            ) as error:  # of the disk, of JSON, or whatever torch finds in a file that is no checkpoint
                raise self._unreadable(file, error) from error
        return self._open[file]

    def _unreadable(self, file: str, error: Exception) -> ModelError:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
        return ModelError(
            f"{self.name!r}: {file} cannot be read in parts ({why}); load the model with transformers once and write it "
            "anew with save_pretrained"
        )
