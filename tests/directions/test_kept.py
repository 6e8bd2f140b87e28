"""What no seed names: a factor of kept numbers moves weights by so much of them, whatever the rule and the kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from exact import stepped

from zodist import noise
from zodist.directions.direction import Combination, Dense
from zodist.directions.kept import Gradient, Kept, Product, Recalled, Scaled, Stored, lay_out
from zodist.directions.matrix import LowRank
from zodist.directions.moments import Ratio, Recent
from zodist.directions.param import Param, address
from zodist.directions.quotient import Quotient
from zodist.step import RULES

SHAPE, R = (24, 18), 3
N = SHAPE[0] * SHAPE[1]
DENSE = Dense(noise.GAUSSIAN, coded=True)
SEEDS = np.array([5 << 16, (5 << 16) + 1, 9 << 16], np.uint64)
ESTIMATE = Combination(SEEDS, np.array([0.5, -1.5, 0.25]))
LR = 2.0**-6  # so that no product with it is rounded
ROUNDING = 0xFEEDFACECAFEBEEF


@dataclass
class Settings:
    lr: float = LR
    momentum: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.25
    schedule: str = "constant"
    warmup: int = 0


def param(dtype: torch.dtype = torch.float32) -> Param:
    flat = torch.from_numpy(random(1, N)).to(dtype)
    return Param("w", address("w"), SHAPE, flat, flat)


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, np.float32)


def stored() -> Stored:
    return Stored(random(2, N))


def product() -> Product:
    left, middle, right = random(3, SHAPE[0], R), random(4, R), random(5, R, SHAPE[1])
    return Product(lambda cache: (left, middle, right))


def recalled() -> Recalled:
    return Recalled(DENSE, lambda: ESTIMATE)


def quotient() -> Quotient:
    return Quotient(stored(), Stored(random(6, N) ** 2), 0.01, lambda: (2.0, 4.0))


def ratio() -> Ratio:
    recent = Recent(4, len(SEEDS))
    for step in range(3):
        recent.add(Combination(SEEDS + np.uint64(step << 32), ESTIMATE.weights * (1.0 + step)))
    return Ratio(DENSE, recent, 0.75, 0.875, 1e-3)


KINDS: dict[str, Callable[[], Kept]] = {
    made.__name__: made for made in (stored, product, recalled, quotient, ratio)
}


def numbers(kept: Kept, *gradients: Gradient) -> np.ndarray:
    """float32 [gradients, N]."""
    p, out = param(), torch.empty(len(gradients), N)
    lay_out(kept, p, gradients, {}).write_(p, 0, N, out, add=False)
    return out.numpy()


def after(rule: str, kept: Kept, *gradients: Gradient, dtype: torch.dtype = torch.float32) -> bytes:
    """The weights after a step along every gradient."""
    p = param(dtype)
    mover = RULES[rule](Settings(), [p])
    for step, gradient in enumerate(gradients):
        mover.apply_(gradient, {p.id: kept}, LR, ROUNDING + step)
    return p.words.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_is_multiplied_with_the_numbers(kind):
    """To float32 rounding for any factor, to the bit for powers of two; 0 is nothing."""
    kept = KINDS[kind]()
    whole, third, half, none = numbers(kept, Scaled(1.0), Scaled(1 / 3), Scaled(-0.5), Scaled(0.0))
    np.testing.assert_allclose(third, whole / 3, rtol=1e-5, atol=1e-6 * np.abs(whole).max())
    assert (half == np.float32(-0.5) * whole).all() and not none.any() and whole.all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_scaled_state_moves_weights_by_so_much_of_the_numbers_under_every_rule(kind, rule, dtype):
    """As a gradient of those numbers does, to the bit; two steps, so that a rule's own state is in it."""
    kept, factor = KINDS[kind](), -0.5
    plain = Stored(factor * numbers(kept, Scaled(1.0))[0])
    moved = after(rule, kept, Scaled(factor), Scaled(factor), dtype=dtype)
    assert (
        moved == after(rule, plain, Scaled(1.0), Scaled(1.0), dtype=dtype) != after(rule, kept, dtype=dtype)
    )


def test_sgd_multiplies_the_rate_with_the_factor_in_float64():
    p, kept, lr, factor = param(), stored(), 0.1, 1 / 3
    want = stepped(p.weights.numpy(), lr * 0.25, np.float32(factor * lr) * kept.numbers)
    RULES["sgd"](Settings(), [p]).apply_(Scaled(factor), {p.id: kept}, lr, ROUNDING)
    assert (p.weights.numpy() == want).all()


def test_a_remembered_estimate_moves_weights_as_the_estimate_itself():
    p, q = param(), param()
    for held, gradient, update in ((p, Scaled(1.0), recalled()), (q, ESTIMATE, DENSE)):
        RULES["sgd"](Settings(), [held]).apply_(gradient, {held.id: update}, 0.1, ROUNDING)
    assert p.words.tobytes() == q.words.tobytes()


def test_a_product_is_the_low_rank_law_of_its_scaled_factors():
    p, made = param(), product()
    left, middle, right = made.parts({})
    law = LowRank(lambda combinations, cache: ((left * (middle * np.float32(0.3)))[None], right[None]))
    out = torch.empty(1, N)
    law.lay(p, [ESTIMATE], {}).write_(p, 0, N, out, add=False)
    assert (numbers(made, Scaled(0.3)) == out.numpy()).all()


def test_estimates_need_a_law_and_scaled_states_something_kept():
    p = param()
    for update, gradients in (
        (DENSE, [Scaled(1.0)]),
        (stored(), [ESTIMATE]),
        (DENSE, [ESTIMATE, Scaled(1.0)]),
    ):
        with pytest.raises(TypeError, match=f"w: a {type(update).__name__} moves no weights by"):
            lay_out(update, p, gradients, {})
