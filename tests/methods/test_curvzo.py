"""CurvZO: masks are addressed, probabilities sum to the budget, estimates and scores are those of the derivations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from driving import answer, begun, drive, moves, numbers, params
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zodist.directions import Combination, Param, address
from zodist.methods.blocks import block_of, draw, inclusion
from zodist.methods.curvzo import CurvZO, CurvZOSettings
from zodist.methods.steps import StepSeeds

SHAPES = {"a": (8, 5), "b": (30,), "c": (5, 2), "d": (20,), "e": (4, 4), "f": (12,)}
SCORES = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(0.0, 1e6))
SEEDS = np.arange(40_000, dtype=np.uint64) + np.uint64(5 << 20)


def curvzo(shapes=None, **keys) -> CurvZO:
    method = CurvZO(CurvZOSettings.model_validate({"blocks": "tensor", "floor": 0.0, **keys}))
    begun(method, params(shapes or SHAPES))
    return method


def sized(sizes: np.ndarray, **keys) -> CurvZO:
    """A method over matrices of these sizes, which hold no weights."""
    empty = params({"": (0,)})[0].weights
    made = [Param(f"p{k}", address(f"p{k}"), (int(n),), empty, empty) for k, n in enumerate(sizes)]
    method = CurvZO(CurvZOSettings.model_validate({"blocks": "tensor", "floor": 0.0, **keys}))
    return begun(method, made)  # type: ignore[return-value]


def slopes(method: CurvZO, energies: np.ndarray, names: np.ndarray, g: np.random.Generator) -> np.ndarray:
    """Slopes on a linear loss whose gradient has these squared norms in the blocks: sum of m_b N(0, G_b)."""
    masks = draw(names, method.shares)
    return (masks * g.standard_normal(masks.shape) * np.sqrt(energies)).sum(axis=1)


def learn(
    method: CurvZO, energies: np.ndarray, steps: int, size: Callable[[float], float] = lambda done: 1.0
) -> list[np.ndarray]:
    """Steps of a run on that loss; the probabilities of each.  size: of the slopes, by the share of steps that is done."""
    g, s, seen = np.random.Generator(np.random.PCG64(1)), method.settings, []
    for t in range(steps):
        names = StepSeeds(7, t).names(s.probes, s.coupling)
        generator = method.step(StepSeeds(7, t))
        next(generator)
        seen.append(method.shares.copy())
        half = s.eps * size(t / steps) * slopes(method, energies, names, g)
        with pytest.raises(StopIteration):
            generator.send(np.stack([1.0 + half, 1.0 - half], axis=1))
    return seen


# Blocks


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.layers.3.mlp.up_proj.weight", "model.layers.3", "model.layers.mlp.up_proj.weight"),
        ("model.layers.12.input_layernorm.weight", "model.layers.12", "model.layers.input_layernorm.weight"),
        ("model.embed_tokens.weight", "model.embed_tokens", "model.embed_tokens.weight"),
        ("transformer.h.0.attn.c_attn.bias", "transformer.h.0", "transformer.h.attn.c_attn.bias"),
        (
            "model.decoder.final_layer_norm.bias",
            "model.decoder.final_layer_norm",
            "model.decoder.final_layer_norm.bias",
        ),
        ("w", "w", "w"),
    ],
)
def test_blocks_are_the_groups_a_user_expects(name, layer, kind):
    assert (block_of(name, "tensor"), block_of(name, "layer"), block_of(name, "kind")) == (name, layer, kind)


@given(SCORES, st.data(), st.sampled_from([0.0, 0.3, 1.0]))
def test_probabilities_sum_to_the_budget(scores, data, floor):
    """(c), with no cap on the factor; each is in (0, 1] and at least its even share of the floor."""
    budget = data.draw(st.integers(1, len(scores)))
    shares = inclusion(scores, budget, floor)
    assert shares.sum() == pytest.approx(budget, rel=1e-9)
    assert (shares > 0).all() and (shares <= 1).all()
    assert (shares >= floor * budget / len(scores) * (1 - 1e-12)).all()
    assert (np.diff(shares[np.argsort(scores)]) >= -1e-12).all(), (
        "a larger score never has the smaller probability"
    )
    below = (shares < 1.0 - 1e-9) & (scores > 1e-6 * scores.max())
    if floor == 0.0 and below.any():
        ratio = shares[below] / scores[below]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_masks_are_drawn_with_their_probabilities_and_independently():
    """40,000 seeds: standard errors of at most 0.0025."""
    shares = np.array([0.9, 0.5, 0.05, 1.0, 0.3])
    masks = draw(SEEDS, shares)
    np.testing.assert_allclose(masks.mean(axis=0), shares, atol=0.01)
    np.testing.assert_allclose(np.cov(masks.T), np.diag(shares * (1 - shares)), atol=0.01)
    order = np.random.Generator(np.random.PCG64(2)).permutation(len(SEEDS))
    assert (draw(SEEDS[order], shares) == masks[order]).all(), "a bit depends on its seed and block alone"
    assert (draw(SEEDS[7:8], shares) == masks[7]).all()


def test_a_probe_without_a_block_takes_the_likeliest():
    shares = np.array([0.01, 0.02, 0.015])
    masks = draw(SEEDS[:2000], shares)
    assert masks.any(axis=1).all()
    assert masks[:, 1].mean() == pytest.approx(1.0 - 0.98 * (1.0 - 0.99 * 0.985), abs=0.01)


# Directions


@pytest.mark.parametrize("coupling", ["walsh", "independent"])
@pytest.mark.parametrize("ht", [False, True])
def test_a_probe_perturbs_its_blocks_and_the_update_divides_by_their_probability(coupling, ht):
    method = curvzo(probes=20, coupling=coupling, horvitz_thompson=ht, fraction=0.5)
    method.scores[:] = np.arange(1.0, 7.0)
    asked, _ = answer(method, np.ones((20, 2)) + np.arange(2))
    names = StepSeeds(7, 0).names(20, coupling)
    masks = draw(names, method.shares)
    assert not masks.all() and (masks.sum(axis=1) > 0).all()
    for n, probe in enumerate(asked[0]):
        plus, minus = moves(method, probe.points)
        assert (plus == -minus).all()
        one = [Combination(names[n : n + 1], np.ones(1))]
        for b, p in enumerate(method.params):
            perturbed, updated = (numbers(law, p, one)[0] for law in (method.direction(p), method.update(p)))
            assert perturbed.all() if masks[n, b] else not perturbed.any()
            np.testing.assert_allclose(updated, perturbed / (method.shares[b] if ht else 1.0), rtol=1e-6)


def test_parameters_of_a_block_are_perturbed_together():
    names = {
        "layers.0.a.weight": (8,),
        "layers.1.a.weight": (8,),
        "layers.0.b.bias": (8,),
        "layers.1.b.bias": (8,),
    }
    method = curvzo(names, blocks="layer", fraction=0.5)
    assert method.blocks == ["layers.0", "layers.1"] and method.sizes.tolist() == [16, 16]
    z = moves(method, [Combination.of((int(seed), 1.0)) for seed in StepSeeds(1, 1).names(64, "walsh")])
    on = (z.reshape(64, 4, 8) != 0).all(axis=2)
    assert (on[:, 0] == on[:, 2]).all() and (on[:, 1] == on[:, 3]).all() and (on[:, 0] != on[:, 1]).any()


def test_what_parameters_share_within_a_forward_is_their_own_block_s():
    """Tables laid out side by side are those laid out alone."""
    method = curvzo({"0.a": (8,), "1.a": (8,), "0.b": (8,)}, blocks="layer", fraction=0.5)
    at = [Combination.of((int(seed), 1.0)) for seed in StepSeeds(1, 1).names(64, "walsh")]
    together: dict = {}
    for p in method.params:
        law, out = method.direction(p), torch.empty(len(at), 8)
        law.lay(p, at, together).write_(p, 0, 8, out, add=False)
        assert (out.numpy() == numbers(law, p, at)).all()


def test_seeds_of_another_step_are_weighed_alike():
    """The masks that a step remembers are nothing but a memo."""
    method = curvzo(probes=4)
    seeds = SEEDS[:50]
    fresh = moves(method, [Combination.of((int(seed), 1.0)) for seed in seeds])
    method._freeze(seeds)
    assert (moves(method, [Combination.of((int(seed), 1.0)) for seed in seeds]) == fresh).all()


# Estimates on a linear loss


@pytest.fixture(scope="module")
def estimates():
    """2,500 one-probe estimates with and without Horvitz-Thompson, scores frozen, and what they should be."""
    method = curvzo(horvitz_thompson=True, score="paper", beta=1e-12, budget="fixed", fraction=0.67)
    method.scores[:] = [1.0, 0.5, 0.3, 0.5, 0.8, 0.2]
    sizes = method.sizes.astype(int)
    g = np.random.Generator(np.random.PCG64(4)).standard_normal(sizes.sum()) * np.repeat(
        [1, 2, 3, 1, 2, 1], sizes
    )
    plain, divided = [], []
    for t in range(2500):
        gradient = drive(method, lambda x: x @ g, t).gradient
        plain.append(moves(method, [gradient])[0])
        divided.append(moves(method, [gradient], update=True)[0])
    edges = np.add.accumulate(sizes)[:-1]
    return method, np.split(g, edges), np.array(plain), np.array(divided)


def test_horvitz_thompson_is_unbiased_and_without_it_blocks_shrink_by_their_probability(estimates):
    """(a), block by block, within four standard errors."""
    method, g, plain, divided = estimates
    at = np.add.accumulate([0, *(len(part) for part in g)])
    for b, part in enumerate(g):
        for found, want in ((divided, 1.0), (plain, method.shares[b])):
            along = found[:, at[b] : at[b + 1]] @ part / (part @ part)
            assert abs(along.mean() - want) < 4.0 * along.std() / np.sqrt(len(along))
            assert along.std() / np.sqrt(len(along)) < 0.25 * want


def test_the_mean_squared_estimate_is_that_of_equation_1(estimates):
    """(b): sum of (n_b (G_b + sum of pi_c G_c) + 2 G_b) / pi_b, the inner sum over the other blocks."""
    method, g, _, divided = estimates
    energy, size, share = np.array([part @ part for part in g]), method.sizes, method.shares
    others = (share * energy).sum() - share * energy
    want = ((size * (energy + others) + 2.0 * energy) / share).sum()
    squares = (divided**2).sum(axis=1)
    assert abs(squares.mean() - want) < 4.0 * squares.std() / np.sqrt(len(squares))
    assert squares.std() / np.sqrt(len(squares)) < 0.1 * want


@pytest.mark.parametrize("ht", [False, True])
def test_it_says_where_its_estimate_points(ht):
    method = curvzo(horvitz_thompson=ht)
    method.sums[:], method.counts[:] = np.arange(1.0, 13.0).reshape(2, 6), 5.0
    found = method.expected({p.name: np.ones(p.shape) for p in method.params})
    want = np.ones(6) if ht else method.shares
    assert [float(found[p.name].flat[0]) for p in method.params] == want.tolist()


# Scores


@pytest.mark.parametrize("shrink", [False, True])
def test_contrast_finds_the_energy_of_the_blocks(shrink):
    """(e): three decades of energy, 38,400 pooled probes, while the probabilities follow the scores."""
    energies = np.logspace(0, 3, 12)[[3, 7, 1, 11, 5, 0, 9, 2, 10, 4, 8, 6]]
    method = sized(np.full(12, 100), probes=256, floor=0.3, memory=10**6, shrink=shrink)
    shares = learn(method, energies, 150)
    assert np.corrcoef(method.block_scores(), energies)[0, 1] > 0.97
    assert np.argmax(shares[-1]) == np.argmax(energies) and shares[0].std() < 1e-9


@pytest.mark.parametrize(
    "size, probes, steps",
    [
        (lambda x: 10 ** (-0.5 * x), 64, 400),
        (lambda x: 10 ** (-0.5 * x), 1, 8000),
        (lambda x: 10 ** (0.5 * x), 64, 400),
        (lambda x: 1.0 if x < 0.5 else 10**-0.5, 64, 400),
    ],
    ids=["falls", "falls-one-probe", "rises", "breaks"],
)
def test_a_drift_of_the_loss_s_scale_stays_out_of_the_contrast(size, probes, steps):
    """slope^2 changes tenfold while the probabilities follow the scores: the shares are those of a steady scale.

    Against the truth within four standard errors, sqrt(2) * level / sqrt(sum of pi (1 - pi)).  Against the same noise at a
    steady scale within 0.02, for a scale that is 100 probes late; one probe a step leads to other masks by then, and is
    another sample.
    """
    energies = np.array([0.2, 0.3, 0.1, 0.05, 0.05, 0.05, 0.05, 0.1, 0.05, 0.05])
    drifting, steady = (sized(np.full(10, 100), probes=probes, floor=0.2, shrink=False) for _ in range(2))
    learn(drifting, energies, steps, size)
    learn(steady, energies, steps)
    found, want = (method.block_scores() / method.block_scores().sum() for method in (drifting, steady))
    error = np.sqrt(2.0) * drifting.level / np.sqrt(drifting.sums[1])
    assert (np.abs(found - energies) < 4.0 * error).all() and error.max() < 0.05
    if probes > 1:
        np.testing.assert_allclose(found, want, rtol=0, atol=0.02)


def test_few_probes_do_not_choose():
    """Eight probes say nothing about 40 blocks: shrunk scores are even, the others are not."""
    even, wild = (sized(np.full(40, 10), probes=8, shrink=shrink) for shrink in (True, False))
    for method in (even, wild):
        learn(method, np.ones(40), 1)
    assert even.block_scores().std() < 0.2 * even.block_scores().mean()
    assert wild.block_scores().std() > wild.block_scores().mean()


def test_the_score_of_the_port_settles_at_the_cube_root_of_the_size():
    """(d): it hardly knows of the gradient, which here has nothing to do with the size."""
    sizes = np.logspace(2, 6, 40).round()
    energies = np.random.Generator(np.random.PCG64(6)).permutation(np.logspace(0, 2, 40))
    method = sized(sizes, score="port", probes=8, budget="fixed", fraction=0.3)
    shares = np.array(learn(method, energies, 900)[300:])
    mean, numel = shares.mean(axis=0), np.log(sizes)
    free = mean < 0.9
    assert np.polyfit(numel[free], np.log(mean[free]), 1)[0] == pytest.approx(1.0 / 3.0, abs=0.05)


def test_the_published_score_is_the_smoothed_square_of_the_estimate():
    """One probe at a time: slope^2 (m / pi)^2 over the running mean of slope^2."""
    method = curvzo(score="paper", rule="root", beta=0.25, budget="fixed", fraction=0.5, eps=0.5)
    scores, mean = np.ones(6), 0.0
    for t in range(30):
        slope = 1.0 + t % 5
        answer(method, [[slope, 0.0]], step=t)
        mask = draw(StepSeeds(7, t).names(1, "walsh"), method.shares)[0]
        np.testing.assert_allclose(method.shares, inclusion(np.sqrt(scores), 3, 0.0), rtol=1e-12)
        mean = 0.75 * mean + 0.25 * slope**2 if t else slope**2
        scores = 0.75 * scores + 0.25 * slope**2 / mean * mask / method.shares**2
    np.testing.assert_allclose(method.scores, scores, rtol=1e-12)


def test_a_probability_holds_for_a_whole_step_and_moves_with_the_next():
    method = curvzo(score="port", probes=3)
    before = method.shares.copy()
    answer(method, [[1.0, 2.0]] * 3)
    assert (method.shares == before).all()
    next(method.step(StepSeeds(7, 1)))
    assert (method.shares != before).any()


def test_the_budget_follows_how_concentrated_the_scores_are():
    flat, sharp = sized(np.full(20, 10)), sized(np.full(20, 10))
    for _ in range(200):
        flat._adapt(np.ones(20))
        sharp._adapt(np.eye(20)[0] + 1e-9)
    assert flat.fraction[0] == pytest.approx(0.1 + 0.7 * 0.7) and 0.1 <= sharp.fraction[0] < 0.4
    method = sized(np.full(20, 10), score="port")
    learn(method, np.ones(20), 20)
    assert method.fraction[0] != 0.4 and method.steps[0] == 20


def test_without_a_usable_probe_nothing_changes():
    for score in ("paper", "port", "contrast"):
        method = curvzo(score=score, probes=2)
        before = {name: array.copy() for name, array in method.state().items()}
        _, outcome = answer(method, [[np.nan, 1.0], [np.inf, np.inf]])
        assert len(outcome.gradient) == 0 and outcome.skipped == 2
        assert all((before[name] == array).all() for name, array in method.state().items())


def test_a_loaded_state_goes_on_as_the_one_it_was_taken_from():
    for score in ("paper", "port", "contrast"):
        first, second = (curvzo(score=score, probes=4) for _ in range(2))
        for t in range(25):
            answer(first, np.arange(8.0).reshape(4, 2) ** 2, step=t)
        second.load({name: array.copy() for name, array in first.state().items()})
        for method in (first, second):
            answer(method, np.arange(8.0).reshape(4, 2) ** 1.5, step=25)
        assert (first.shares == second.shares).all() and (first.block_scores() == second.block_scores()).all()
