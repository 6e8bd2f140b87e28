"""A running average of the weights over the steps of a run, made afterwards from its journal.

After every step: mean <- decay * mean + (1 - decay) * weights, from the base weights on.  Since a journal gives the weights
of every step again, training keeps no second copy for it, and one run has an average for every decay.  Polyak and Juditsky
1992; with a decay, as in Izmailov et al. 2018 (arXiv:1803.05407), section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zodist.directions import Param
from zodist.errors import ConfigError


class Average:
    """The average so far: a float32 copy of the trained weights.

    decay: the share of the old average that stays, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ConfigError(f"--average {decay} must be at least 0 and less than 1, such as 0.99")
        self.decay, self._means = decay, list[torch.Tensor]()

    def begin(self, params: Sequence[Param]) -> None:
        """Start from the weights as they are."""
        self._means = [p.weights.detach().float().clone() for p in params]

    def take(self, params: Sequence[Param]) -> None:
        """Take in the weights after a step."""
        for mean, p in zip(self._means, params, strict=True):
            mean.mul_(self.decay).add_(p.weights, alpha=1.0 - self.decay)

    def give(self, params: Sequence[Param]) -> None:
        """Make the weights the average; 16-bit ones are rounded to the nearest."""
        for mean, p in zip(self._means, params, strict=True):
            p.weights.copy_(mean)
            p.publish()
