"""The weights of a model folder, read tensor by tensor and, of a tensor, only the part that is wanted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open

from zodist.errors import ModelError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@final
class WeightFiles:
    """The safetensors files of a Hugging Face model.

    folder: where they lie.  name: the model's, for messages.  prefix: of the base model's parameters, which some
    checkpoints leave out.
    """

    def __init__(self, folder: Path, name: str, prefix: str) -> None:
        self.folder, self.name, self.prefix = folder, name, prefix
        self._open: dict[str, Any] = {}
        try:
            if (folder / INDEX).exists():
                self._file_of = dict(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"])
            else:
                self._file_of = {key: SINGLE for key in self._opened(SINGLE).keys()}
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(
                f"{name!r} has no {SINGLE} that can be read in parts ({error}); load it with transformers once and write "
                "it anew with save_pretrained"
            ) from error

    def part(
        self, name: str, shape: tuple[int, ...], first: int, stop: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """Numbers first .. stop - 1 of a parameter seen flat, in a dtype; only the rows that hold them are read.

        Raises ModelError where the files lack the parameter, or have another shape for it.
        """
        key = self._key(name)
        whole = self._opened(self._file_of[key]).get_slice(key)
        if tuple(whole.get_shape()) != shape:
            raise ModelError(
                f"{self.name!r}: {key!r} has shape {tuple(whole.get_shape())} in the files and {shape} in the model; "
                "write it anew with save_pretrained"
            )
        if stop <= first:
            return torch.empty(0, dtype=dtype)
        row = math.prod(shape[1:])
        top = first // row
        rows = whole[top : -(-stop // row)].reshape(-1)
        return rows[first - top * row : stop - top * row].to(dtype)

    def _key(self, name: str) -> str:
        for key in (name, name.removeprefix(f"{self.prefix}."), f"{self.prefix}.{name}"):
            if key in self._file_of:
                return key
        raise ModelError(
            f"{self.name!r} has no weights for {name!r} under that name; load it with transformers once and write it anew "
            "with save_pretrained"
        )

    def _opened(self, file: str) -> Any:
        if file not in self._open:
            self._open[file] = safe_open(self.folder / file, framework="pt", device="cpu")
        return self._open[file]
