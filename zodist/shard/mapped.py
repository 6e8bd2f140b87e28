"""Weights in files that are mapped into memory: the system keeps there what fits, and writes back what has changed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from zodist.errors import ModelError


def mapped(tensor: torch.Tensor, folder: Path) -> torch.Tensor:
    """A copy of a tensor, on the CPU, in a file of the folder; the file has no name and vanishes with the process.

    Raises ModelError where the folder cannot take it.
    """
    if not tensor.numel():
        return tensor.cpu()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder, prefix="zodist-", suffix=".weights")
        try:
            # Blocks are taken now: a full disk would otherwise end the process when a page is written back.
            os.posix_fallocate(descriptor, 0, tensor.numel() * tensor.element_size())
            held = torch.from_file(name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
        finally:
            os.close(descriptor)
            os.unlink(name)
    except OSError as error:
        raise ModelError(
            f"shard.folder = {str(folder)!r} cannot hold this worker's weights ({error.strerror}); name a folder with room"
        ) from error
    return held.copy_(tensor.view(-1)).view(tensor.shape)
