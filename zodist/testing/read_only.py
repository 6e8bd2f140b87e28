"""Evaluating a step's points never writes a weight of the model, trained or frozen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from zodist import noise
from zodist.directions import address
from zodist.evaluator import Evaluator
from zodist.methods import Probe, StepSeeds
from zodist.models import params
from zodist.tasks import Batch
from zodist.testing.subject import Subject
from zodist.testing.toys import RUN, STEPS, through_the_wire

VOCABULARY, ROWS, LENGTH = 32, 3, 5
TRAINED = "layers"  # embeddings and the last norm stay frozen


def weights_are_read_only_during_evaluations(chosen: Subject) -> None:
    """Two steps' points on a tiny Llama; the steps see its true losses."""
    model, batch = _model(), _batch()
    held = params.collect(model, TRAINED)
    method = chosen.build(probes=2)
    method.begin(held)
    laws = {p.id: method.direction(p) for p in held}
    for p in held:
        method.update(p)
    whole = params.fingerprint(model)
    evaluator = Evaluator(model, held, laws)
    try:
        for step in range(2):
            generator = method.step(StepSeeds(RUN, step, STEPS))
            probes = next(generator)
            while True:
                losses = np.stack([_losses(evaluator, probe, batch) for probe in probes])
                if not np.isfinite(losses).all():
                    raise AssertionError(
                        f"step {step}: points of the default size give losses that are not finite"
                    )
                if params.fingerprint(model) != whole:
                    raise AssertionError(f"step {step}: evaluating the points changed weights of the model")
                try:
                    probes = generator.send(through_the_wire(losses))
                except StopIteration as stop:
                    if stop.value.then is not None:
                        stop.value.then()
                    break
                if params.fingerprint(model) != whole:
                    raise AssertionError(f"step {step}: the method wrote weights between its rounds")
            if params.fingerprint(model) != whole:
                raise AssertionError(
                    f"step {step}: the method wrote weights itself; return a gradient instead"
                )
    finally:
        evaluator.close()


def _losses(evaluator: Evaluator, probe: Probe, batch: Batch) -> np.ndarray:
    """What a worker measures for one probe, as in zodist.run.assemble."""
    if probe.examples:
        return evaluator.single_losses(probe, [batch])
    return evaluator.losses(probe.points, [batch])


def _model() -> torch.nn.Module:
    """One layer of a Llama whose weights are addressed noise."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(shape).eval().requires_grad_(False)
    for name, p in model.named_parameters():
        numbers = noise.numbers(noise.GAUSSIAN, 9, address(name), noise.U, 0, p.numel())
        p.copy_(torch.from_numpy(numbers).view(p.shape) * 0.1 + (1.0 if p.dim() == 1 else 0.0))
    return model


@dataclass(frozen=True, eq=False)
class _Rows(Batch):
    """Rows of tokens; the loss is that of the last one."""

    def losses(self, logits: torch.Tensor) -> torch.Tensor:
        assert self.labels is not None
        return torch.nn.functional.cross_entropy(logits[:, -1].float(), self.labels, reduction="none")

    def scores(self, logits: torch.Tensor) -> torch.Tensor | None:
        return None


def _batch() -> _Rows:
    ids = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) * 7 % VOCABULARY
    places = torch.arange(LENGTH).repeat(ROWS, 1)
    return _Rows(ids, torch.ones_like(ids), places, 1, None, ROWS, torch.arange(ROWS))
