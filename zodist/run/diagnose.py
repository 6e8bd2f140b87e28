"""What a method knows about the gradient, after the steps of a run: against the true one, by backpropagation.

For understanding only; no training path uses it.  The run is rebuilt from its journal, the model goes to float32, and the
gradients of batches of training examples are taken: their mean is an estimate of the gradient g, their spread that of the
noise, and the method says how what it has learned relates to g (``Method.diagnose``).
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zodist.directions import Param
from zodist.errors import JournalError, TaskError
from zodist.exchange import budget, set_threads
from zodist.run.assemble import load_parts
from zodist.run.replay import open_run
from zodist.step import Replayed
from zodist.tasks import Task


@dataclass(frozen=True, slots=True)
class Gradients:
    """The gradient of a task's training loss, and how batches disagree about it.

    mean: float64 by parameter name, over all examples.  squares: |g|^2 of each parameter, without the bias that noise adds
    to |mean|^2.  noises: s^2 of each, the variance of one example's gradient, summed over its weights.
    """

    mean: dict[str, np.ndarray]
    squares: dict[str, float]
    noises: dict[str, float]

    @property
    def square(self) -> float:
        """|g|^2."""
        return sum(self.squares.values())

    @property
    def noise(self) -> float:
        """s^2."""
        return sum(self.noises.values())

    @property
    def batch(self) -> float:
        """B* = s^2 / |g|^2: up to about so many examples a batch is worth its cost."""
        return self.noise / self.square if self.square > 0 else float("inf")

    def gains(self) -> dict[str, float]:
        """What perturbing only the weights of one kind would gain, by kind: a name with its layer's number left out.

        Per step at the best rate, a direction z drawn with covariance D lowers the loss by about (g'Dg) / (2 tr(HD)), where
        the curvature H of a likelihood is close to the Fisher information, whose trace over a block is |g_b|^2 + s_b^2.  So
        a block is worth |g_b|^2 / (|g_b|^2 + s_b^2); the figures are that over the same of all weights.  (Ours.)
        """
        signal, noise = defaultdict(float), defaultdict(float)
        for name, square in self.squares.items():
            kind = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
            signal[kind] += square
            noise[kind] += self.noises[name]
        whole = self.square / (self.square + self.noise)
        return {kind: signal[kind] / (signal[kind] + noise[kind]) / whole for kind in signal}


def diagnose(folder: Path, examples: int = 256, size: int = 16) -> dict[str, Any]:
    """Figures of a run at its last complete step, JSON-able.

    examples: training examples whose gradient is taken, in batches of ``size``.
    Raises JournalError for a damaged or foreign journal, TaskError when there are too few examples.
    """
    config, contents = open_run(folder)
    threads = config.run.threads or budget(1)
    set_threads(threads)
    parts = load_parts(config, threads)
    if parts.fingerprint != contents.header["model"]["fingerprint"]:
        raise JournalError(f"{folder} was begun with another base model than {config.model.name}")
    replica = parts.replica()
    answer, whole = Replayed(contents.entries, config.batch.data_lanes), len(contents.entries)
    steps = contents.entries[-1].step if whole else 0  # the last step may lack rounds
    while replica.step < steps:
        replica.advance(answer)
    parts.model.float()
    found = gradients(parts.model, parts.params, parts.task, examples, size)
    largest = sorted(found.mean, key=lambda name: -float(np.square(found.mean[name]).sum()))[:5]
    total = sum(float(np.square(g).sum()) for g in found.mean.values())
    return {
        "run": str(folder),
        "method": config.method.name,
        "step": replica.step,
        "gradient": found.square**0.5 if found.square > 0 else 0.0,
        "noise": found.noise**0.5,
        "critical_batch": found.batch,
        "largest_shares": {name: float(np.square(found.mean[name]).sum()) / total for name in largest},
        "gains": dict(sorted(found.gains().items(), key=lambda pair: -pair[1])),
        **{name: float(value) for name, value in replica.method.diagnose(found.mean).items()},
    }


def gradients(model: Any, params: list[Param], task: Task, examples: int, size: int) -> Gradients:
    """By backpropagation, in the model's dtype, over the first ``examples`` training examples in batches of ``size``."""
    rows = task.train[:examples]
    batches = len(rows) // size
    if batches < 2:
        raise TaskError(
            f"{len(rows)} training examples make {batches} batches of {size}; two are needed at least"
        )
    named = dict(model.named_parameters())
    chosen = [named[p.name] for p in params]
    for weight in chosen:
        weight.requires_grad_(True)
    mean, squares = [np.zeros(tuple(w.shape)) for w in chosen], [0.0] * len(chosen)
    try:
        for k in range(batches):
            batch = task.batch(rows[k * size : (k + 1) * size])
            names = ("input_ids", "attention_mask", "position_ids")
            inputs = {name: getattr(batch, name).to(model.device) for name in names}
            logits = model(**inputs, logits_to_keep=batch.keep, use_cache=False).logits
            logits = logits if batch.columns is None else logits[..., batch.columns.to(model.device)]
            for at, g in enumerate(torch.autograd.grad(batch.losses(logits).mean(), chosen)):
                mean[at] += g.double().cpu().numpy()
                squares[at] += float(g.double().square().sum())
    finally:
        for weight in chosen:
            weight.requires_grad_(False)
    names = [p.name for p in params]
    found = Gradients({name: total / batches for name, total in zip(names, mean, strict=True)}, {}, {})
    for name, square in zip(names, squares, strict=True):
        biased = float(np.square(found.mean[name]).sum())
        spread = (square / batches - biased) * batches / (batches - 1)  # of one batch's gradient about g
        found.squares[name], found.noises[name] = biased - spread / batches, spread * size
    return found
