"""``zodist bench step``: a training step beside its limit and beside the step that it replaces.

The limit is two forwards per probe of the bare model with the same few logits, and theirs is the rate at which this machine
multiplies the model's largest layer; the step it replaces is the in-place step as published (zodist.bench.inplace).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from zodist.bench.line import Line
from zodist.bench.profile import profile_step
from zodist.bench.rounds import Rounds, timed
from zodist.bench.variants import Bench, Settings, load
from zodist.exchange import set_threads

BRIEF = ("products", "bare_forwards", "step")


def measure_step(
    settings: Settings, *, repeats: int, limit_s: float = math.inf, brief: bool = False
) -> list[Line]:
    """Times of every variant, and a profile of the step; brief: of the step and the bare forwards alone, without profile.

    On sentences a brief run has the in-place step as well: what padding costs is the point there.

    Raises ZodistError, with one sentence, for a setting that cannot be measured.
    """
    set_threads(settings.threads)
    model = load(settings)
    bench = Bench(model, settings)
    copies = [torch.empty_like(p) for p in bench.weights]
    try:
        short = (*BRIEF, "inplace_step") if settings.sentences else BRIEF
        runs = [partial(bench.run, variant) for variant in (short if brief else bench.VARIANTS)]
        rounds = Rounds([*runs, timed("copy", lambda: _copy(bench, copies))], repeats, limit_s)
        lines = _lines(bench, rounds)
    finally:
        bench.close()
    return lines if brief else lines + profile_step(model, settings)


def _copy(bench: Bench, copies: list[torch.Tensor]) -> None:
    for out, weight in zip(copies, bench.weights, strict=True):
        out.copy_(weight)


def _lines(bench: Bench, rounds: Rounds) -> list[Line]:
    """The figures of the rounds."""
    settings, bare, setting = bench.settings, bench.bare, str(bench.settings)
    forwards = 2 * settings.probes
    rate = bare.product_operations / rounds.median("products")
    limit = forwards * bare.operations() / rate
    of_bare = {"ceiling": "bare_forwards", "ceiling_is": f"{forwards} bare forwards with the loss's logits"}
    of_copy = {"ceiling": "copy", "ceiling_is": "torch copy_ of all weights"}
    inplace = {"peer": "inplace_step", "peer_is": "in-place MeZO as published, torch.normal four times"}
    if "inplace_step" not in rounds.times:
        inplace = {}
    shape = " x ".join(str(n) for n in bare.largest.weight.shape)
    product: dict[str, Any] = {
        "amount": bare.product_operations / 1e9,
        "unit": "GFLOP/s",
        "note": f"a bare linear of {shape} with the batch's {settings.batch * settings.tokens} tokens",
    }
    rows: list[tuple[str, str, dict[str, Any]]] = [
        ("product with the largest layer", "products", product),
        ("bare forwards", "bare_forwards", {}),
        ("bare forwards, all logits", "bare_forwards_all_logits", {}),
        ("step", "step", of_bare | inplace),
        ("evaluation", "evaluate", of_bare),
        ("update", "update", of_copy),
        ("given losses to update, 1 probe", "update_one", of_copy),
        (f"given losses to update, {settings.wide:,} probes", "update_wide", of_copy),
    ]
    lines = [
        rounds.line("step", what, name, setting=setting, case=settings.case, **given)
        for what, name, given in rows
        if name in rounds.times
    ]
    limit_is = "the same operations at the rate of its largest layer"
    lines[1] = replace(lines[1], ceiling=limit, ceiling_is=limit_is)
    return lines
