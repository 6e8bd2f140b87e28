"""The evaluator gives a model back as it found it, and no two of them have one model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import batch, tiny
from torch import nn

from zodist import noise
from zodist.directions import Combination, Dense
from zodist.errors import ModelError
from zodist.evaluator.forward import Evaluator
from zodist.evaluator.patch import replaced
from zodist.evaluator.prefix import FrozenPrefix
from zodist.models import collect

DENSE = Dense(noise.GAUSSIAN, True)
PAIR = [Combination.of((5 << 16, e)) for e in (1e-2, -1e-2)]


def hooked(module: nn.Module) -> list[int]:
    """Put a forward into a module itself, as accelerate's hooks do; how often it runs is counted."""
    calls, own = [], module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return own(*args, **kwargs)

    module.forward = forward
    return calls


def evaluator_of(model: Any, pattern: str = "") -> Evaluator:
    return Evaluator(model, collect(model, pattern), lambda param: DENSE)


def test_a_second_evaluator_is_refused_and_the_first_goes_on() -> None:
    model = tiny("llama-tied")
    first = evaluator_of(model)
    want = first.losses(PAIR, [batch()])
    with pytest.raises(ModelError, match="another evaluator of this model; close that one first"):
        evaluator_of(model)
    assert (first.losses(PAIR, [batch()]) == want).all()
    first.close()
    second = evaluator_of(model)
    assert (second.losses(PAIR, [batch()]) == want).all()
    second.close()


def test_evaluators_of_other_parameters_share_no_leaf_but_the_head_and_are_refused_too() -> None:
    model = tiny("llama-tied")
    first = evaluator_of(model, r"layers\.0\.")
    with pytest.raises(ModelError, match="another evaluator"):
        evaluator_of(model, r"layers\.1\.")
    assert len(first.losses(PAIR, [batch()])) == 2
    first.close()
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_a_forward_that_somebody_else_has_set_is_restored() -> None:
    model = tiny("llama-tied")
    leaf = model.model.layers[0].mlp.up_proj
    calls = hooked(leaf)
    theirs = leaf.forward
    evaluator = evaluator_of(model)
    evaluator.losses(PAIR, [batch()])
    evaluator.close()
    evaluator.close()
    assert leaf.forward is theirs and not calls
    with torch.inference_mode():
        model(input_ids=batch().input_ids)
    assert calls == [1]


def test_a_frozen_layer_with_a_forward_of_somebody_else_keeps_it() -> None:
    model = tiny("llama-tied")
    calls = hooked(model.model.layers[0])
    theirs = model.model.layers[0].forward
    params = collect(model, r"layers\.1\.")
    evaluator = Evaluator(model, params, lambda param: DENSE, prefix=FrozenPrefix(model, params, {}))
    evaluator.losses(PAIR, [batch()])
    evaluator.close()
    assert model.model.layers[0].forward is theirs and calls


def test_a_refused_model_is_left_as_it_was() -> None:
    model = tiny("llama-tied")
    first = evaluator_of(model, "lm_head|embed")
    held = {module: module.__dict__.get("forward") for module in model.modules()}
    with pytest.raises(ModelError):
        evaluator_of(model)
    assert all(module.__dict__.get("forward") is before for module, before in held.items())
    first.close()


def test_replaced_forwards_come_back_after_an_error() -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), replaced({module: lambda x: x}):
        raise RuntimeError
    assert "forward" not in module.__dict__
