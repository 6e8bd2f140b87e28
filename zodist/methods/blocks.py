"""Blocks of parameters that a probe perturbs or leaves alone: their names, their probabilities, and a seed's choice."""

from __future__ import annotations

import numpy as np

from zodist import noise

CHUNK = 4096  # seeds whose words are in memory at a time
LEAST = 1e-12  # of a score that counts as zero


def block_of(name: str, grouping: str) -> str:
    """The block that a parameter belongs to.

    grouping: "tensor": a block of its own.  "layer": its name up to the first number, such as model.layers.3, or, without
    one, up to its last dot.  "kind": its name without numbers, such as model.layers.mlp.up_proj.weight.
    """
    parts = name.split(".")
    if grouping == "tensor":
        return name
    if grouping == "kind":
        return ".".join(part for part in parts if not part.isdigit())
    for n, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: n + 1])
    return ".".join(parts[:-1]) or name


def inclusion(scores: np.ndarray, budget: int, floor: float) -> np.ndarray:
    """Probabilities proportional to scores as far as none is above 1, which sum to a budget: float64 [blocks].

    scores: float64 [blocks], >= 0; budget: blocks to perturb on average, 1 .. blocks.  floor: share of the budget that is
    spread evenly; no probability is then below floor * budget / blocks.
    The factor on scores is found exactly: the largest m scores are cut at 1, for the least m that suffices.
    """
    n = len(scores)
    p = np.maximum(scores, LEAST * max(float(scores.max(initial=0.0)), LEAST))
    order = np.argsort(-p, kind="stable")
    rest = np.add.accumulate(p[order][::-1])[::-1]  # sum of this score and all smaller ones, in a fixed order
    factors = (budget - np.arange(n)) / rest
    fits = np.flatnonzero(factors * p[order] <= 1.0)
    share = np.minimum(1.0, factors[fits[0]] * p) if len(fits) and budget < n else np.ones(n)
    return np.minimum((1.0 - floor) * share + floor * (budget / max(n, 1)), 1.0)


def draw(seeds: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The blocks that each seed includes, each with its own probability and independently: bool [seeds, blocks].

    Bits are addressed by (seed, block) under the role ``mask``.  A seed that would include none takes the likeliest.
    """
    n = len(shares)
    limits = np.ceil(shares * 2.0**32).astype(np.uint64)
    counter = np.zeros((-(-n // 4), 4), np.uint32)
    counter[:, 0], counter[:, 3] = np.arange(len(counter)), noise.MASK
    masks = np.empty((len(seeds), n), bool)
    for start in range(0, len(seeds), CHUNK):
        words = noise.philox(counter, np.asarray(seeds[start : start + CHUNK], np.uint64)[:, None])
        masks[start : start + CHUNK] = words.reshape(len(words), -1)[:, :n] < limits
    if n:
        masks[~masks.any(axis=1), int(np.argmax(shares))] = True
    return masks
