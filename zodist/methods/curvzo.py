"""CurvZO: Wang, Chen, Tang 2026, "Adaptive Curvature-Guided Sparse Zeroth-Order Optimization for Efficient LLM Fine-Tuning".

arXiv:2603.21725 (ICML 2026).  A probe perturbs only some blocks of the parameters, block b with probability pi_b; pi
follows a score that is learned from the losses; the number of blocks follows how concentrated the scores are.

Paper     perturbation m * u, two-sided; gradient = slope * m u / pi (Horvitz-Thompson, unbiased); score slope^2 (m/pi)^2
          u^2, smoothed and normalised to S; pi proportional to sqrt(S), summing to a budget.  Known to us through
          reviews and digests: score = "paper", rule = "root", horvitz_thompson = true.
Code      only a third party's port: score = "port", rule = "proportional": s_b moves by |slope| over its running mean,
          times n_b / pi_b^2, normalised over the included blocks; budget = "adaptive" with its constants.  Its random
          masks could not be replayed, and its factor on scores was capped so that pi fell short of the budget.
Derived   on a linear loss E[slope^2 | b in] - E[slope^2 | b out] = |gradient of b|^2 exactly: score = "contrast",
          floored at 0, which needs masks and slopes only: sum of (slope^2 / E - level) (m - pi) over that of pi (1 - pi).
          Each probe is set against what its own pi led to expect, in units E of |gradient|^2 (the mean of slope^2 / level
          over the last 100 probes, level = sum of pi times the scores' shares), so that neither a loss whose scale drifts
          nor a pi that does gets into the scores: means over probes with and without b compare different times.
          shrink: towards the mean block, by noise over size, which is 2 K^2 / probes for K blocks in a probe, so that few
          probes do not choose.  Horvitz-Thompson never beats a dense probe; focusing gains by its bias
          (horvitz_thompson = false).  The port's pi tends to numel^(1/3).
          The sum of u^2 over a block is replaced by its number of weights, which with Rademacher noise it is.
Departure several probes a step, all with the step's pi; scores see all records of the step, in probe order.  floor
          mixes in an even share.  A probe without a block takes the likeliest (as the port).  What we expect to be worth
          having is the default, contrast on layers without Horvitz-Thompson; configs/methods/curvzo-paper.toml is the
          published form.
Replay    in order.  State: 24 bytes a block.  Forwards a step: 2 per probe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field

from zodist import noise
from zodist.directions import Combination, Dense, Dressed, Param
from zodist.methods.blocks import block_of, draw, inclusion
from zodist.methods.claims import Gradients, Moments, averaged
from zodist.methods.method import Method, Outcome, Probe, Settings, Step
from zodist.methods.steps import StepSeeds, slopes

EVERY, LOW, HIGH, MIX, SMOOTH = 20, 0.1, 0.8, 0.7, 0.1  # of the adaptive budget, as in the port
FIRST_SCORE, FIRST_MEAN, TINY, LEAST_SHARE = 0.01, 1e-8, 1e-12, 1e-8
LATELY = 100.0  # probes that the scale of the slopes is averaged over, for the score contrast


class CurvZOSettings(Settings):
    """Keys of [method] with name = "curvzo"."""

    probes: int = Field(1, ge=1, le=noise.CODES, description="two-sided probes in a step, over all workers")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units")
    noise: Literal["gaussian", "rademacher"] = Field("gaussian", description="law of a direction's numbers")
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the probes of a step differ")
    blocks: Literal["tensor", "layer", "kind"] = Field(
        "layer", description="what is perturbed or left alone at once"
    )
    score: Literal["paper", "port", "contrast"] = Field("contrast", description="how blocks are scored")
    rule: Literal["proportional", "root"] = Field(
        "proportional", description="pi follows the score, or its root"
    )
    horvitz_thompson: bool = Field(False, description="divide what a block gets by its probability")
    floor: float = Field(0.2, ge=0, le=1, description="share of the budget that is spread evenly")
    budget: Literal["adaptive", "fixed"] = Field("adaptive", description="blocks perturbed at a time")
    fraction: float = Field(0.4, gt=0, le=1, description="share of the blocks in the budget, at the start")
    beta: float = Field(0.1, gt=0, le=1, description="weight of a probe in the scores of paper and port")
    memory: int = Field(20_000, ge=2, description="probes that the score contrast looks back on")
    shrink: bool = Field(True, description="pull the score contrast to the mean while few probes are in")
    per_weight: bool = Field(False, description="divide a block's score by its number of weights")


class CurvZO(Method):
    """Two-sided probes of some blocks, chosen by score."""

    settings_type = CurvZOSettings
    paper = "Wang, Chen, Tang 2026, arXiv:2603.21725"
    replay = "in order"
    forwards = "2 per probe"
    memory = "24 bytes a block"

    def __init__(self, settings: CurvZOSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.LAWS[settings.noise], settings.coupling == "walsh")
        self.begin([])

    def begin(self, params: Sequence[Param]) -> None:
        """Blocks in the order of their first parameter, all of one score."""
        super().begin(params)
        s = self.settings
        named = {p.id: block_of(p.name, s.blocks) for p in params}
        self.blocks = list(dict.fromkeys(named.values()))
        self._block = {key: self.blocks.index(block) for key, block in named.items()}
        self.sizes = np.zeros(len(self.blocks))
        for p in params:
            self.sizes[self._block[p.id]] += math.prod(p.shape)
        n = len(self.blocks)
        self.scores = np.full(n, FIRST_SCORE if s.score == "port" else 1.0)
        self.mean = np.full(1, FIRST_MEAN if s.score == "port" else 0.0)
        # Of "contrast": a block's covariance with slope^2, and its own variance, summed; probes, and blocks in them.
        self.sums, self.counts = np.zeros((2, n)), np.zeros(2)
        self.fraction, self.steps = np.full(1, s.fraction), np.zeros(1)
        # One function a block, so that the parameters of a block share their tables.
        self._weigh = [[partial(self._weights, b, ht) for b in range(n)] for ht in (False, True)]
        self._freeze(np.empty(0, np.uint64))

    def direction(self, param: Param) -> Dressed:
        """The noise of the seeds that include the parameter's block."""
        return Dressed(self._dense, weigh=self._weigh[False][self._block[param.id]])

    def update(self, param: Param) -> Dressed:
        """The same, over the block's probability under Horvitz-Thompson."""
        return Dressed(self._dense, weigh=self._weigh[self.settings.horvitz_thompson][self._block[param.id]])

    def _freeze(self, seeds: np.ndarray) -> None:
        """Fix the probabilities of a step, and the masks of its seeds."""
        n = len(self.blocks)
        budget = min(max(int(n * self.fraction[0]), 1), n)
        scores = self.block_scores()
        values = scores / self.sizes if self.settings.per_weight else scores
        self.shares = inclusion(
            np.sqrt(values) if self.settings.rule == "root" else values, budget, self.settings.floor
        )
        total = math.fsum(scores)
        self.level = (
            math.fsum(self.shares * scores) / total if total else 1.0
        )  # of |gradient|^2 in a mean probe
        self.inside = self.shares.copy()
        if n:  # a probe that would be without a block has the likeliest
            self.inside[int(np.argmax(self.shares))] += math.prod((1.0 - self.shares).tolist())
        self._known = np.sort(seeds)
        self._masks = draw(self._known, self.shares)

    def _masks_of(self, seeds: np.ndarray) -> np.ndarray:
        at = np.searchsorted(self._known, seeds)
        if len(self._known) and (self._known[np.minimum(at, len(self._known) - 1)] == seeds).all():
            return self._masks[at]
        return draw(seeds, self.shares)

    def _weights(self, block: int, divide: bool, seeds: np.ndarray) -> np.ndarray:
        weight = 1.0 / max(float(self.shares[block]), LEAST_SHARE) if divide else 1.0
        return np.where(self._masks_of(seeds)[:, block], weight, 0.0)

    def step(self, seeds: StepSeeds) -> Step:
        """One round: every probe at +eps and -eps."""
        s = self.settings
        names = seeds.names(s.probes, s.coupling)
        self._freeze(names)
        plus = [Combination(names[n : n + 1], np.array([s.eps])) for n in range(s.probes)]
        losses = yield tuple(Probe(int(seed), (p, p * -1.0)) for seed, p in zip(names, plus, strict=True))
        slope = slopes(losses, s.eps)
        kept = np.isfinite(slope)
        count = int(kept.sum())
        if not count:
            return Outcome(Combination.of(), math.nan, math.nan, s.probes)
        self._learn(slope[kept], self._masks_of(names[kept]))
        gradient = Combination(names[kept], slope[kept] / count)
        loss, rms = math.fsum(losses[kept].reshape(-1)) / (2 * count), math.fsum(slope[kept] ** 2) / count
        return Outcome(gradient, loss, math.sqrt(rms), s.probes - count)

    def _learn(self, slope: np.ndarray, masks: np.ndarray) -> None:
        """Scores from the step's probes, one after another; slope: float64 [probes], masks: bool [probes, blocks]."""
        learn = {"paper": self._paper, "port": self._port, "contrast": self._contrast}[self.settings.score]
        inverse = 1.0 / np.maximum(self.shares, LEAST_SHARE) ** 2
        for value, mask in zip(slope.tolist(), masks, strict=True):
            learn(value, mask, inverse)
        self.steps += 1
        if self.settings.budget == "adaptive" and int(self.steps[0]) % EVERY == 0:
            self._adapt(self.block_scores())

    def _paper(self, slope: float, mask: np.ndarray, inverse: np.ndarray) -> None:
        beta, square = self.settings.beta, slope * slope
        self.mean[0] = (1.0 - beta) * self.mean[0] + beta * square if self.mean[0] else square
        if square:
            self.scores *= 1.0 - beta
            self.scores += np.where(mask, beta * (square / self.mean[0]) * inverse, 0.0)

    def _port(self, slope: float, mask: np.ndarray, inverse: np.ndarray) -> None:
        beta = self.settings.beta
        self.mean[0] = (1.0 - beta) * self.mean[0] + beta * abs(slope)
        size = abs(slope) / (self.mean[0] + TINY)
        energy = self.sizes[mask] * inverse[mask]
        new = size * (energy / math.fsum(energy))
        self.scores[mask] = (1.0 - beta) * self.scores[mask] + beta * new

    def _contrast(self, slope: float, mask: np.ndarray, _: np.ndarray) -> None:
        """What slope^2 over |gradient|^2 has in common with being in; |gradient|^2 as slopes and scores say of late."""
        keep, square = 1.0 - 1.0 / self.settings.memory, slope * slope
        self.counts *= keep
        self.counts += [1.0, math.fsum(self.shares)]
        energy = square / self.level
        self.mean += (energy - self.mean) / min(float(self.counts[0]), LATELY)
        if self.mean[0]:
            self.sums[0] = self.sums[0] * keep + (square / self.mean[0] - self.level) * (mask - self.inside)
            self.sums[1] = self.sums[1] * keep + self.inside * (1.0 - self.inside)

    def block_scores(self) -> np.ndarray:
        """The score of each block, float64, >= 0; for "contrast" an estimate of its share of |gradient|^2."""
        if self.settings.score != "contrast":
            return self.scores
        n = len(self.blocks)
        typical = np.full(n, 1.0 / max(n, 1))
        if not self.counts[0]:
            return typical
        common, varied = self.sums
        budget = self.counts[1] / self.counts[0]  # blocks in an average probe
        found = np.where(varied > 0, common / np.where(varied > 0, varied, 1.0), typical)
        trust = varied / (varied + 2.0 * budget**2) if self.settings.shrink else 1.0
        return np.maximum(typical + trust * (found - typical), 0.0)

    def _adapt(self, values: np.ndarray) -> None:
        """The share of blocks in the budget, from how many carry the scores and how evenly."""
        n, total = len(values), math.fsum(values)
        if n < 2 or not total:
            return
        support = math.fsum(np.sqrt(values)) ** 2 / total
        shares = (values / total).tolist()
        entropy = -math.fsum(q * math.log(q) for q in shares if q > 0) / math.log(n)
        wanted = LOW + (HIGH - LOW) * (MIX * support / n + (1.0 - MIX) * (1.0 - entropy))
        self.fraction[0] = min(max((1.0 - SMOOTH) * self.fraction[0] + SMOOTH * wanted, LOW), HIGH)

    def expected(self, gradients: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The gradient; without Horvitz-Thompson each block of it times its probability."""
        if self.settings.horvitz_thompson:
            return gradients
        self._freeze(self._known)
        shares = {p.name: float(self.shares[self._block[p.id]]) for p in self.params}
        return {name: g * shares[name] for name, g in gradients.items()}

    def linear_moments(self, gradients: Gradients) -> Moments:
        """Block b of n_b weights and squared gradient G_b, in with probability p_b, and then times h_b: 1, or 1 / pi_b.

        One probe: sum over b and c of P(b and c) h_b^2 n_b G_c, and with Gaussian numbers 2 sum p_b h_b^2 G_b; two have 1
        or, coded, 0 or 2 times sum p_b^2 h_b^2 G_b in common.  A probe that would be empty takes the likeliest block.
        """
        s = self.settings
        self._freeze(self._known)
        energy = np.zeros(len(self.blocks))
        for p in self.params:
            energy[self._block[p.id]] += float(np.square(gradients[p.name]).sum())
        inside, h = self.shares.copy(), np.ones_like(self.shares)
        if s.horvitz_thompson:
            h = 1.0 / np.maximum(self.shares, LEAST_SHARE)
        inside[int(np.argmax(inside))] += float(np.prod(1.0 - self.shares))
        both = np.outer(self.shares, self.shares)
        np.fill_diagonal(both, inside)
        gaussian = 2.0 * (s.noise == "gaussian")
        one = float((h**2 * self.sizes) @ both @ energy + gaussian * (inside * h**2) @ energy)
        two = float((inside * h) ** 2 @ energy) * (gaussian if s.coupling == "walsh" else 1.0)
        return float((inside * h) @ energy), averaged(one, two, s.probes)

    def state(self) -> dict[str, np.ndarray]:
        """Scores and what they come from."""
        both = {"scores": self.scores, "sums": self.sums, "counts": self.counts}
        return {**both, "mean": self.mean, "fraction": self.fraction, "steps": self.steps}

    def diagnose(self, gradients: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Correlation of scores and of probabilities with the blocks' true |g_b|^2; the probabilities' sum and range."""
        energies = np.zeros(len(self.blocks))
        for p in self.params:
            energies[self._block[p.id]] += float(np.square(gradients[p.name]).sum())

        def correlation(x: np.ndarray) -> float:
            return (
                float(np.corrcoef(x, energies)[0, 1])
                if len(x) > 1 and np.ptp(x) and np.ptp(energies)
                else 0.0
            )

        return {
            "score_correlation": correlation(self.block_scores()),
            "share_correlation": correlation(self.shares),
            "budget": float(self.shares.sum()),
            "least_share": float(self.shares.min()),
            "largest_share": float(self.shares.max()),
        }
