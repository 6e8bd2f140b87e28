"""The other ways to train do what their names say: one worker's steps, against torch's own arithmetic."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from zodist.exchange import LocalExchange
from zodist.scale.baselines.ddp import Ddp
from zodist.scale.baselines.diloco import OUTER_LR, OUTER_MOMENTUM, DiLoCo
from zodist.scale.baselines.lora import Lora
from zodist.scale.baselines.loss import Loss
from zodist.scale.baselines.naive import Naive
from zodist.scale.cell import Cell, Link
from zodist.scale.replicated import ZerothOrder
from zodist.scale.systems import RANDOM, Nested, build, load

CELL = Cell("ddp", RANDOM, 1, 0, Link(), batch=2, tokens=6)


@pytest.fixture(scope="module")
def base():
    return load(RANDOM, "float32")


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().view(-1).clone() for p in model.parameters()])


def test_the_random_model_is_the_same_everywhere(base) -> None:
    assert torch.equal(flat(base), flat(load(RANDOM, "float32")))
    assert 0.9e6 < sum(p.numel() for p in base.parameters()) < 1.1e6


def test_full_fine_tuning_is_adamw_on_the_loss(base) -> None:
    model, reference = copy.deepcopy(base), copy.deepcopy(base)
    system = Ddp(CELL, model, LocalExchange())
    spent = system.step()
    reference.requires_grad_(True)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=Ddp.lr)
    Loss(CELL, reference).of(reference).backward()
    optimizer.step()
    assert torch.equal(flat(model), flat(reference))
    assert min(spent.forward, spent.gather, spent.update) >= 0 and system.expected == 0


def test_adapters_alone_are_trained(base) -> None:
    pytest.importorskip("peft")
    model = copy.deepcopy(base)
    system = Lora(CELL, model, LocalExchange())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(2):
        system.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all("lora_" in name for name in changed)
    # Rank 8 beside q (128 x 128) and v (64 x 128) in four layers.
    assert sum(p.numel() for p in system.trained) == 4 * 8 * ((128 + 128) + (128 + 64))


def test_an_outer_step_is_nesterov_on_how_far_the_inner_ones_went(base) -> None:
    model = copy.deepcopy(base)
    start = flat(model)
    system = DiLoCo(replace(CELL, system="diloco-50"), model, LocalExchange())
    for _ in range(3):
        system.step()
    gone = start - flat(model)
    system.outer()
    expected = start - OUTER_LR * (1 + OUTER_MOMENTUM) * gone
    assert system.every == 50
    torch.testing.assert_close(flat(model), expected, rtol=1e-5, atol=1e-7)  # in another order of additions


def test_the_naive_way_moves_the_weights_as_zodist_does(base) -> None:
    """The same probes and slopes; zodist rounds once, the vector is rounded to float32 before."""
    cell = replace(CELL, probes=3)
    ours, naive = copy.deepcopy(base), copy.deepcopy(base)
    ZerothOrder(replace(cell, system="zodist"), ours, LocalExchange()).step()
    Naive(replace(cell, system="naive"), naive, LocalExchange()).step()
    moved, also = flat(ours) - flat(base), flat(naive) - flat(base)
    assert float(moved.norm()) > 0
    assert float(torch.nn.functional.cosine_similarity(moved, also, dim=0)) > 0.99


@pytest.mark.parametrize("system", ["zodist", "naive", "ddp", "diloco-50", "diloco-500"])
def test_every_system_is_built_by_its_name_and_steps(base, system: str) -> None:
    made = build(replace(CELL, system=system, probes=2), copy.deepcopy(base), LocalExchange())
    spent = made.step()
    assert spent.forward > 0 and spent.update > 0
    assert isinstance(made, Nested) == system.startswith("diloco")
    if isinstance(made, Nested):
        assert made.outer().update > 0
    made.close()


@pytest.mark.parametrize("method", ["fzoo", "zodist", "lozo", "prior"])
def test_other_methods_step_too(base, method: str) -> None:
    cell = replace(CELL, system="zodist", method=method, probes=2)
    made = build(cell, copy.deepcopy(base), LocalExchange())
    assert made.step().forward > 0
    made.close()
