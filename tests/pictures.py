"""Training that has nothing to do with language: a small net that tells upright bars from lying ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F

Picture = tuple[torch.Tensor, torch.Tensor]


def pictures(batches: int, seed: int) -> list[Picture]:
    """Batches of 16 noisy pictures, [16, 1, 8, 8], and which of them have an upright bar."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batches, 16, 1, 8, 8, generator=g)
    x[:, 0::2, :, 3, :] += 2
    x[:, 1::2, :, :, 3] += 2
    return list(zip(x, torch.arange(16).expand(batches, 16) % 2, strict=True))


def net(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A convolution, normalisation with running means, dropout, and a linear layer."""
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(1, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Dropout(), torch.nn.Linear(288, 2)).to(dtype)


def loss(model: torch.nn.Module, batch: Picture) -> torch.Tensor:
    """Cross-entropy of each picture."""
    x, upright = batch
    return F.cross_entropy(model(x.to(next(model.parameters()).dtype)).float(), upright, reduction="none")
