"""The classical in-place step of MeZO (Malladi et al. 2023, arXiv:2305.17333, Algorithm 1): the reference for zodist's.

The weights themselves are moved to +eps z, to -eps z and back, and every pass draws z again from a stream that is reset to
the step's seed: four passes of ``torch.normal`` over all weights in a step.  In 16 bits the way back does not end where it
began, so replicas that evaluate different probes drift apart; that is why zodist never writes to weights that it evaluates.

Departure: weights are moved by one fused multiply-add where the published code rounds three times and makes
two temporaries, so a comparison errs in this step's favour.  Weight decay is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Draw = Callable[[Sequence[Tensor], int], Iterator[Tensor]]


def stream(weights: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
    """A standard normal tensor for each weight tensor, from torch's generator set to ``seed``, as published."""
    generator = torch.Generator(weights[0].device).manual_seed(seed)
    for weight in weights:
        yield torch.normal(
            0.0, 1.0, weight.shape, generator=generator, dtype=weight.dtype, device=weight.device
        )


def move_(weights: Sequence[Tensor], factor: float, seed: int, draw: Draw = stream) -> None:
    """One pass: add ``factor`` times the direction of ``seed``."""
    for weight, z in zip(weights, draw(weights, seed), strict=True):
        weight.add_(z, alpha=factor)


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

    weights: the trained tensors, each once.  loss: the batch's loss at the weights as they are when it is called.
    draw: gives the directions; it is called four times with the same seed.
    """
    with torch.inference_mode():
        move_(weights, eps, seed, draw)
        plus = loss()
        move_(weights, -2.0 * eps, seed, draw)
        minus = loss()
        move_(weights, eps, seed, draw)
        slope = (plus - minus) / (2.0 * eps)
        move_(weights, -lr * slope, seed, draw)
    return slope
