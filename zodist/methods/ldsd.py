"""LDSD: Parfenov et al. 2026, "Zero-Order Optimization for LLM Fine-Tuning via Learnable Direction Sampling".

arXiv:2602.13659.  Directions are z = mu + sigma xi; the mean mu, one number per weight, is learned by a policy-gradient
step (REINFORCE with a leave-one-out baseline) from the losses of K one-sided points, and the best of these points
becomes the direction of a two-sided difference.

Paper     K points at +eps z_k; best = least loss; one more forward at -eps z_best; gradient = z_best * difference /
          (2 eps); mu <- mu - eta_mu / (K sigma^2) sum_k A_k (z_k - mu), A_k the loss less the mean of the others.  The
          algorithm's box was not available to us: this is its intended form, as the authors' code and notes show it.
Code      draws unrelated noise for the step of mu, so that mu is a random walk, and measures +eps z_best twice.
Derived   the advantages of a probe sum to zero, so the step of mu is a sum over sigma xi alone: one pass over addressed
          noise, the probes' own bits, whatever the number of points.  On a linear loss mu drifts by -eta_mu eps gradient
          a step, and with sigma = 1 the gain over mu = 0 is 1 + (mu . g0)^2, g0 = gradient / |gradient|.
          Walsh codes get a random sign a point: else every n-th weight is the same in all points of a probe and the
          sum of the advantages cancels it in every step.
Departure several probes a step, each with its own best point; mu_decay (0 in the paper).  variant = "rloo" takes the
          gradient from all K losses and needs no second round; mu then only shifts where the losses are taken, and its
          share of the gradient cancels.
Replay    in order.  State: mu, float32, 4 bytes a weight.  Forwards a step: K + 1 per probe; K with variant = "rloo".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from zodist import noise
from zodist.directions import Combination, Dense, Dressed, Param
from zodist.methods.method import Method, Outcome, Probe, Settings, Step
from zodist.methods.steps import StepSeeds, leave_one_out


class LDSDSettings(Settings):
    """Keys of [method] with name = "ldsd"."""

    codes: ClassVar[tuple[str, ...]] = ("probes", "points")
    probes: int = Field(1, ge=1, description="groups of points that share a batch, over all workers")
    points: int = Field(5, ge=1, le=64, description="one-sided points of a probe, K (published: 5)")
    eps: float = Field(1e-3, gt=0, description="perturbation size where |z| is 1, in weight units")
    sigma: float = Field(1.0, gt=0, description="standard deviation of a direction about mu (published: 1)")
    lr_mu: float = Field(3e-3, ge=0, description="learning rate of mu (published: 1e-3 to 7e-3)")
    mu_decay: float = Field(0.0, ge=0, lt=1, description="share of mu that is lost in a step")
    variant: Literal["best", "rloo"] = Field(
        "best", description="two-sided along the best point, or all K losses"
    )
    noise: Literal["gaussian", "rademacher"] = Field("gaussian", description="law of xi")
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the points of a step differ")

    @model_validator(mode="after")
    def _fits(self) -> LDSDSettings:
        if self.variant == "rloo" and self.points < 2:
            raise ValueError("variant = 'rloo' compares points of a probe; use points >= 2")
        return self


class LDSD(Method):
    """One-sided points about a learned mean, the best of them two-sided."""

    settings_type = LDSDSettings
    paper = "Parfenov et al. 2026, arXiv:2602.13659"
    replay = "in order"
    forwards = "points + 1 per probe; points with variant = 'rloo'"
    memory = "4 bytes a weight (mu)"

    def __init__(self, settings: LDSDSettings) -> None:
        s = self.settings = settings
        self._dense = Dense(noise.LAWS[s.noise], s.coupling == "walsh", s.sigma)
        self.mu: dict[str, np.ndarray] = {}
        self._means: list[Param] = []

    def begin(self, params: Sequence[Param]) -> None:
        """Mu from zero."""
        super().begin(params)
        self.mu = {p.name: np.zeros(p.weights.numel(), np.float32) for p in params}
        # Seen as a parameter at the same address, mu is moved by the weights' own kernel and by the probes' own noise.
        flat = [torch.from_numpy(self.mu[p.name]) for p in params]
        self._means = [
            Param(p.name, p.id, p.shape, mu, mu, p.origin) for p, mu in zip(params, flat, strict=True)
        ]

    def direction(self, param: Param) -> Dressed:
        """Noise of standard deviation sigma about mu."""
        return Dressed(self._dense, mean=self.mu[param.name], weigh=signs if self._dense.coded else None)

    def step(self, seeds: StepSeeds) -> Step:
        """One round of one-sided points, and one of the best points' other side."""
        s = self.settings
        names = seeds.names(s.probes * s.points, s.coupling).reshape(s.probes, s.points)
        shift = np.array([s.eps])
        losses = yield tuple(
            Probe(int(own[0]), tuple(Combination(own[k : k + 1], shift) for k in range(s.points)))
            for own in names
        )
        kept = np.isfinite(losses).all(axis=1)
        best = np.where(
            kept, np.argmin(losses, axis=1), 0
        )  # the first of equals; one that is not finite asks for any
        if s.variant == "best" and kept.any():
            # Every probe asks again, so that each keeps the batch of its first round.
            below = yield tuple(
                Probe(int(own[0]), (Combination(own[b : b + 1], -shift),))
                for own, b in zip(names, best, strict=True)
            )
            kept = kept & np.isfinite(below[:, 0])
        else:
            below = losses
        count = int(kept.sum())
        if not count:
            return Outcome(Combination.of(), math.nan, math.nan, s.probes)
        found, own = losses[kept], names[kept]
        at = np.arange(count), best[kept]
        if s.points > 1:
            weights = leave_one_out(found, s.points, pool="probe")[0]
        else:
            weights = np.zeros_like(found)  # a single point has nothing to be compared with
        if s.variant == "best":
            slope = (found[at] - below[kept, 0]) / (2.0 * s.eps)
            gradient = Combination(own[at], slope / count)
        else:
            slope = weights * (count * s.points / s.eps)
            gradient = Combination(own.reshape(-1), weights.reshape(-1) / s.eps)
        loss, rms = math.fsum(found.reshape(-1)) / found.size, math.fsum(slope.reshape(-1) ** 2) / slope.size
        rates = weights.reshape(-1) * (s.lr_mu / s.sigma**2)
        seen = Combination(own.reshape(-1), rates * signs(own.reshape(-1)) if self._dense.coded else rates)
        return Outcome(gradient, loss, math.sqrt(rms), s.probes - count, then=lambda: self._learn(seen))

    def _learn(self, seen: Combination) -> None:
        """The step of mu along some directions, one pass over their noise."""
        s = self.settings
        if s.lr_mu == 0 or s.points == 1:
            return
        decay, cache = np.float32(s.mu_decay), {}
        for mean in self._means:
            self._dense.lay(mean, [seen], cache).update_(mean, decay, np.uint64(0), parallel=True)

    def expected(self, gradients: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Mean of (z . g) z over the best of the points; the gradient itself while mu is 0, and with variant "rloo"."""
        s = self.settings
        if s.variant == "rloo":
            return gradients
        mu = {name: self.mu[name].reshape(g.shape).astype(np.float64) for name, g in gradients.items()}
        along = sum(float((mu[name] * g).sum()) for name, g in gradients.items())
        length = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        first, second = _least(s.points)
        of_mu = along + s.sigma * first * length
        of_gradient = s.sigma * first * along / max(length, 1e-300) + s.sigma**2 * second
        return {name: of_mu * mu[name] + of_gradient * g for name, g in gradients.items()}

    def state(self) -> dict[str, np.ndarray]:
        """Mu, by parameter name."""
        return dict(self.mu)

    def diagnose(self, gradients: Mapping[str, np.ndarray]) -> dict[str, float]:
        """mu . g / |g| in units of sigma (descent is negative), its cosine, and the gain 1 + (mu . g / |g| sigma)^2."""
        dot = sum(float(self.mu[name].astype(np.float64) @ g.reshape(-1)) for name, g in gradients.items())
        size = math.sqrt(sum(float(np.square(g).sum()) for g in gradients.values()))
        norm = math.sqrt(sum(float(np.square(mu.astype(np.float64)).sum()) for mu in self.mu.values()))
        along = dot / size / self.settings.sigma
        return {
            "mu_along_gradient": along,
            "mu_cosine": dot / (size * norm) if norm else 0.0,
            "gain": 1.0 + along * along,
        }


def signs(seeds: np.ndarray) -> np.ndarray:
    """A random sign for each seed's noise, float64 +1 or -1, the mean's being +1 always."""
    counter = np.array([0, 0, 0, noise.RADIUS], np.uint32)
    return 1.0 - 2.0 * (noise.philox(counter, np.asarray(seeds, np.uint64))[..., 0] & np.uint32(1))


def _least(count: int) -> tuple[float, float]:
    """Mean and mean square of the least of some standard normal numbers, by quadrature to about 1e-6."""
    x = np.linspace(-9.0, 9.0, 18_001)
    density = np.exp(-0.5 * x**2) * ((x[1] - x[0]) / math.sqrt(2.0 * math.pi))
    above = 1.0 - np.add.accumulate(density)
    share = count * density * np.maximum(above, 0.0) ** (count - 1)
    return float((x * share).sum()), float((x**2 * share).sum())
