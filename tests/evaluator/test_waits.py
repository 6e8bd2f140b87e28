"""A step on a device waits for it once, to read the losses.  Shown on the CPU, by counting what would wait."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from models import batch, tiny
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from zodist import noise
from zodist.directions import Combination, Dense, RankOne
from zodist.evaluator.forward import Evaluator
from zodist.methods import Probe
from zodist.models import collect

# Operations whose result, or its shape, the host must know: on a GPU each waits for all that was queued.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "item", "unique_dim"}


class Reads(TorchDispatchMode):
    """Counts such operations."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: D105
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
        if name in WAITING or by_mask:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


class Fetches(TorchFunctionMode):
    """Counts tensors that are brought to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: D105
        self.count += func is torch.Tensor.cpu
        return func(*args, **(kwargs or {}))


def within(model) -> Counter[str]:
    """What is counted from now on while the model runs, where all that it reads is on its device."""
    reads = Reads()
    model.register_forward_pre_hook(lambda *_: reads.__enter__() and None)
    model.register_forward_hook(lambda *_: reads.__exit__(None, None, None))
    return reads.seen


def bare(model, b) -> Counter[str]:
    """What the model itself reads of a padded batch: whether all of its mask is set, in newer versions of transformers."""
    seen = within(model)
    with torch.inference_mode():
        model(
            input_ids=b.input_ids,
            attention_mask=b.attention_mask,
            position_ids=b.position_ids,
            use_cache=False,
        )
    return seen


@pytest.mark.parametrize("law", [Dense(noise.RADEMACHER, True), Dense(noise.GAUSSIAN, True), RankOne()])
@pytest.mark.parametrize("family", ["llama-tied", "opt", "gpt2"])
def test_leaves_read_nothing(family, law):
    b, pair = batch(columns=True), [Combination.of((5 << 16, e)) for e in (1e-2, -1e-2)]
    singles = tuple(Combination.of((7 << 16 | n, 1e-2)) for n in range(b.examples))
    own = bare(tiny(family), b)
    for packed in (False, True):
        model = tiny(family)
        evaluator = Evaluator(model, collect(model), lambda param: law, packed=packed)
        seen = within(model)
        evaluator.losses(pair, [b])
        assert packed or seen == own
        assert not packed or not seen
        if isinstance(law, RankOne):
            seen.clear()
            evaluator.single_losses(Probe(0, singles, b.examples), [b])
            assert seen == (Counter() if packed else own)


def test_losses_are_fetched_once_however_many_forwards_they_take():
    model, b = tiny("llama-tied"), batch(columns=True)
    evaluator = Evaluator(model, collect(model), lambda param: Dense(noise.RADEMACHER, True), room=1.0)
    probes = [[Combination.of((s << 16, e)) for e in (1e-2, -1e-2)] for s in (5, 6, 7)]
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    with Fetches() as fetches:
        evaluator.group_losses(probes, [[b, b]] * 3)
    assert (len(calls), fetches.count) == (12, 1)
