"""MeZO's step as published (Malladi et al. 2023, arXiv:2305.17333, Algorithm 1): the reference for zodist's.

The weights themselves are moved to +eps z, to -eps z and back, and every pass draws z again from a stream
that is reset to the step's seed: four passes of ``torch.normal`` over all weights in a step.  In 16 bits the
way back does not end where it began, so replicas that evaluate different probes drift apart; that is why
zodist never writes to the weights that it evaluates.

The products are rounded one by one, as in the published code; the sum goes into the weight's own storage,
which spares it an allocation.  Weight decay is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Draw = Callable[[Sequence[Tensor], int], Iterator[Tensor]]


def stream(weights: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
    """A standard normal tensor for each weight tensor, from a generator set to ``seed``."""
    generator = torch.Generator(weights[0].device).manual_seed(seed)
    for weight in weights:
        yield torch.normal(
            0.0, 1.0, weight.shape, generator=generator, dtype=weight.dtype, device=weight.device
        )


def move_(weights: Sequence[Tensor], sign: float, eps: float, seed: int, draw: Draw = stream) -> None:
    """One pass: add ``sign * eps`` times the direction of ``seed``."""
    for weight, z in zip(weights, draw(weights, seed), strict=True):
        weight.add_(sign * z * eps)


def update_(weights: Sequence[Tensor], lr: float, slope: float, seed: int, draw: Draw = stream) -> None:
    """The last pass: subtract ``lr * slope`` times the direction of ``seed``."""
    for weight, z in zip(weights, draw(weights, seed), strict=True):
        weight.sub_(lr * (slope * z))


def step_(
    weights: Sequence[Tensor],
    loss: Callable[[], float],
    *,
    seed: int,
    eps: float,
    lr: float,
    draw: Draw = stream,
) -> float:
    """One step on a fixed batch; returns the slope, loss per weight unit.

    weights: the trained tensors, each once.  loss: the batch's loss at the weights as they are when called.
    draw: gives the directions; it is called four times with the same seed.
    """
    with torch.inference_mode():
        move_(weights, 1.0, eps, seed, draw)
        plus = loss()
        move_(weights, -2.0, eps, seed, draw)
        minus = loss()
        move_(weights, 1.0, eps, seed, draw)
        slope = (plus - minus) / (2.0 * eps)
        update_(weights, lr, slope, seed, draw)
    return slope
