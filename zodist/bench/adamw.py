"""First-order training on a run's own terms: what its figures stand beside.  A reference, not a way to train with zodist.

AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) by torch's autograd reads the config file of a run and takes from it the
base model, what is trained (all weights, an expression of names, an adapter), the examples of every step, the course of the
rate, the splits and the evaluation.  A step sees the examples that all probes of zodist's step see together, so after as
many steps both have seen the same data.  The rate and the number of steps are its own, and gradients longer than LONGEST
are shortened to that, as is usual for fine-tuning.

Trained weights are kept in float32, whatever model.dtype is; forward and backward pass are in model.dtype, on the weights
as they are after rounding (Micikevicius et al. 2018, arXiv:1710.03740; float16 without their scaling of the loss).  The
model is in eval mode, as it is in a run: no dropout.  An adapter's weights are float32 in any case.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from zodist.config import Config
from zodist.errors import ConfigError, TaskError, ZodistError
from zodist.exchange import budget, set_threads
from zodist.methods import METHODS, StepSeeds
from zodist.models import collect
from zodist.run import Loaded, Parts, evaluate, load_parts
from zodist.step import examples, schedule
from zodist.tasks import Batch, Score

LONGEST = 1.0  # Euclidean length of a gradient


@dataclass(frozen=True, slots=True)
class Reference:
    """A finished training.

    examples: training examples of a step.  losses: mean loss of each step's examples, before its update.  validation: by
    step, where output.evaluate_every asks for it.  before, after: of the test split, or of validation if there is none.
    """

    lr: float
    examples: int
    losses: list[float]
    validation: dict[int, Score]
    before: Score
    after: Score

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


class AdamW:
    """A run's model and task, trained by backpropagation a step at a time.

    lr: the highest rate of rule.schedule, whose course takes ``steps`` steps.  parts: with the base weights; afterwards the
    trained ones are in parts.model.
    """

    def __init__(self, parts: Parts, *, lr: float, steps: int) -> None:
        self.parts, self.lr, self.total, self.step = parts, lr, steps, 0
        self.examples = parts.config.batch.size * lanes(parts)
        self._rule = parts.config.rule.model_copy(update={"lr": lr})
        # What parts.params holds may be 16 bits wide; these are float32 and know where the model's own storage is.
        self._params = collect(parts.model, parts.config.model.train, master=True)
        self._weights = [dict(parts.model.named_parameters())[p.name] for p in self._params]
        self._optimizer = torch.optim.AdamW(
            [p.weights for p in self._params],
            lr=lr,
            betas=(self._rule.momentum, self._rule.beta2),
            eps=self._rule.epsilon,
            weight_decay=self._rule.weight_decay,
            fused=True,  # one pass over the weights
        )
        self._evaluator = parts.evaluator()

    def advance(self) -> float:
        """One step; the mean loss of its examples before the update, nats.  Raises ZodistError if that is not finite."""
        seed, n = self.parts.config.run.seed, len(self.parts.task.train)
        pieces = self.parts.batches(examples(seed, self.step, 0, 1, self.examples, n))
        loss = self._backward(pieces)
        if not np.isfinite(loss):
            raise ZodistError(f"step {self.step}: the loss is {loss}; lower --lr, which is {self.lr:g}")
        for param, weight in zip(self._params, self._weights, strict=True):
            assert weight.grad is not None
            param.weights.grad, weight.grad = weight.grad.float().view(-1), None
        torch.nn.utils.clip_grad_norm_([p.weights for p in self._params], LONGEST)
        self._optimizer.param_groups[0]["lr"] = schedule(self._rule, self.step, self.total)
        self._optimizer.step()
        self._optimizer.zero_grad()
        for param in self._params:
            param.publish()
        self.step += 1
        return loss

    def _backward(self, pieces: list[Batch]) -> float:
        """Leave the gradient of the mean loss in the model's parameters; the loss itself."""
        total, seen = 0.0, sum(piece.examples for piece in pieces)
        flags = [weight.requires_grad for weight in self._weights]  # those of an adapter are set
        for weight in self._weights:
            weight.requires_grad_(True)
        try:
            for piece in pieces:
                loss = piece.losses(self._logits(piece)).sum()
                (loss / seen).backward()
                total += loss.item()
        finally:
            for weight, flag in zip(self._weights, flags, strict=True):
                weight.requires_grad_(flag)
        return total / seen

    def _logits(self, piece: Batch) -> torch.Tensor:
        """The logits that enter the loss, [rows, keep, columns]; a few columns in float32, as in an evaluation."""
        model, output = self.parts.model, self.parts.model.get_output_embeddings()
        whole, columns = output.forward, piece.columns

        def forward(x: torch.Tensor) -> torch.Tensor:
            x = x.contiguous()  # torch would copy the matrix for every row of a strided slice
            if columns is None:
                return whole(x)
            at = columns.to(x.device)
            bias = None if output.bias is None else output.bias[at].float()
            return F.linear(x.float(), output.weight[at].float(), bias)

        names = ("input_ids", "attention_mask", "position_ids")
        inputs = {name: getattr(piece, name).to(model.device) for name in names}
        output.forward = forward
        try:
            return model(**inputs, logits_to_keep=piece.keep, use_cache=False).logits
        finally:
            output.forward = whole

    def score(self, split: str, limit: int = 0) -> Score:
        """Evaluate a split of the task, or its first examples, as a run does."""
        rows = getattr(self.parts.task, split)
        return evaluate(self._evaluator, self.parts.task, rows[: limit or len(rows)])

    def close(self) -> None:
        """Give the model back; its trained weights stay as they are now."""
        self._evaluator.close()


def lanes(parts: Parts) -> int:
    """How many batches a zodist step of this configuration reads: one for each probe and data lane of its first round."""
    c = parts.config
    method = METHODS[c.method.name].build(c.method.settings)
    method.begin(parts.params)
    return len(next(method.step(StepSeeds(c.run.seed, 0, c.run.steps)))) * c.batch.data_lanes


def train(config: Config, *, lr: float, loaded: Loaded | None = None) -> Reference:
    """Train for run.steps steps at a rate of its own, and evaluate where a run of this configuration would.

    loaded: its base model and task, if they are in memory; the model's trained weights change.
    """
    if config.shard.kind != "none" or config.model.quantise != "none":
        raise ConfigError(
            "adamw trains whole models as they are; set shard.kind and model.quantise to 'none'"
        )
    threads, output = config.run.threads or budget(1), config.output
    set_threads(threads)
    parts = load_parts(config, threads, loaded)
    final = "test" if parts.task.test and output.test else "validation"
    if not getattr(parts.task, final):
        raise TaskError(f"task {parts.task.name!r} has nothing to evaluate; set task.test above 0")
    trainer, steps, every = (
        AdamW(parts, lr=lr, steps=config.run.steps),
        config.run.steps,
        output.evaluate_every,
    )
    try:
        before, validation, losses = trainer.score(final), {}, []
        for step in range(steps + 1):
            if every and parts.task.validation and (step % every == 0 or step == steps):
                validation[step] = trainer.score("validation", output.evaluate_examples)
            if step < steps:
                losses.append(trainer.advance())
        return Reference(lr, trainer.examples, losses, validation, before, trainer.score(final))
    finally:
        trainer.close()
