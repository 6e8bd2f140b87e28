"""``zodist plan --calibrate``: the rates of this machine, and of the network between the workers that were started.

Everything is measured on zodist's own parts: the kernels that draw and fold, the evaluator on a model so small that only its
calls count, the journal on a disk, rounds of the exchange.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from zodist import noise
from zodist.bench import EPS, MEASURED, Bench, Settings, describe, measure_exchange, seconds
from zodist.config import Rule
from zodist.directions import Combination, Dense, Param, address
from zodist.exchange import Exchange, cores, set_threads
from zodist.journal import Journal
from zodist.methods import StepSeeds
from zodist.models import DTYPES
from zodist.plan.calibration import Calibration, Link, Pace
from zodist.plan.shapes import shape_of
from zodist.step import RULES, Entry

NUMBERS, SLICE = (
    1 << 22,
    1 << 20,
)  # of the tensor that noise is measured on, and of one perturbed copy: about a layer
SEED = 1 << 16  # its low 16 bits are its Walsh code
SEEDS = 5  # independent directions beside one
ROWS, INNER, OUTER = (16, 64, 256, 1024), 1024, 1024  # of the products
ROUNDS, STREAM = 100, 1 << 20  # rounds of records; bytes of each of the longer ones


def calibrate(threads: int, exchange: Exchange, repeats: int = 5) -> Calibration:
    """The calibration of this worker; the network's part is measured by all workers together.

    Every worker calls this; the figures of compute are those of the worker itself.
    """
    set_threads(threads)
    with torch.inference_mode():
        products = {name: _products(DTYPES[name], repeats) for name in MEASURED}
        paces = {
            f"{law}/{name}": _pace(law, DTYPES[name], threads > 1, repeats)
            for law in noise.LAWS
            for name in MEASURED
        }
        copied = torch.zeros(NUMBERS)
        out = torch.empty_like(copied)
        copy_s = _median(lambda: out.copy_(copied), repeats)
    calls = _calls(threads)
    touch = {
        name: _touch(name, threads, products[name], paces[f"rademacher/{name}"], calls["call_s"])
        for name in MEASURED
    }
    machine = describe(threads)
    return Calibration(
        machine=f"{machine['processor']}, {machine['cores for this process']} cores, torch {machine['torch']}",
        measured=machine["measured"],
        device="cpu",
        cores=cores(),
        threads=threads,
        products=products,
        noise=paces,
        touch=touch,
        copy_rate=2 * 4 * NUMBERS / copy_s,
        **calls,
        link=_link(exchange),
    )


def _median(run: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, after one that loads and compiles."""
    run()
    return median(seconds(run) for _ in range(repeats))


def _products(dtype: torch.dtype, repeats: int) -> dict[int, float]:
    """Operations a second by rows."""
    weight, found = torch.ones(OUTER, INNER, dtype=dtype), {}
    for rows in ROWS:
        x = torch.ones(rows, INNER, dtype=dtype)
        found[rows] = 2.0 * rows * INNER * OUTER / _median(lambda x=x: F.linear(x, weight), repeats)
    return found


def _pace(law: str, dtype: torch.dtype, parallel: bool, repeats: int) -> Pace:
    """The rates of one law on weights of one type."""
    weights = torch.zeros(NUMBERS, dtype=dtype)
    param = Param("calibration", address("calibration"), (NUMBERS,), weights, weights)
    dense = {coded: Dense(noise.LAWS[law], coded) for coded in (True, False)}
    pair = torch.empty(2, SLICE, dtype=dtype)
    points = (Combination.of((SEED, EPS)), Combination.of((SEED, -EPS)))
    rule = RULES["sgd"](Rule(lr=1e-6), [param], parallel=parallel)

    def perturb() -> None:
        laid = dense[True].lay(param, points, {})
        for start in range(0, NUMBERS, SLICE):
            laid.write_(param, start, start + SLICE, pair, add=True, parallel=parallel)

    def fold(count: int, coupling: str) -> float:
        seeds = StepSeeds(SEED, 0).names(count, coupling)
        gradient = Combination(seeds, (np.arange(count) % 7 - 2.5) * 1e-4)
        laws = {param.id: dense[coupling == "walsh"]}
        return _median(lambda: rule.apply_(gradient, laws, 1e-6, SEED), repeats)

    one, many = fold(1, "independent"), fold(1 + SEEDS, "independent")
    return Pace(
        pair=NUMBERS / _median(perturb, repeats),
        fold=NUMBERS / fold(16, "walsh"),
        seed=NUMBERS * SEEDS / max(many - one, 1e-9),
    )


def _model(**sizes: int) -> Any:
    """A Llama of these sizes with whatever weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    options: dict[str, Any] = {"vocab_size": 64, "num_key_value_heads": sizes["num_attention_heads"], **sizes}
    return LlamaForCausalLM(LlamaConfig(**options)).eval().requires_grad_(False)


def _touch(dtype: str, threads: int, products: dict[int, float], pace: Pace, call_s: float) -> float:
    """Numbers a second between the products of a real layer: what its evaluation takes besides all that is known."""
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4}
    model: Any = _model(**sizes).to(DTYPES[dtype])
    shape, rows, tokens = shape_of(model, "calibration"), 8, 32
    with torch.inference_mode():
        bench = Bench(
            model, Settings("calibration", "rademacher", rows, tokens, dtype, 1, threads, 2, wide=1)
        )
        try:
            whole = median([bench.step()["evaluate"] for _ in range(12)][2:])
        finally:
            bench.close()
    known = 2 * shape.operations(rows, tokens, 2) / products[256] + shape.parameters / pace.pair
    known += shape.leaves * call_s
    return 2 * rows * tokens * shape.crossing / max(whole - known, 1e-2 * whole)


def _calls(threads: int, rounds: int = 20) -> dict[str, float]:
    """What calls cost besides their numbers, by field of the calibration."""
    model = _model(hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=8)
    settings = Settings("calibration", "rademacher", 2, 4, "float32", 1, threads, 2, wide=1)
    leaves = shape_of(model, "calibration").leaves
    with torch.inference_mode(), tempfile.TemporaryDirectory(prefix="zodist-plan-") as folder:
        bench = Bench(model, settings)
        try:
            steps = [bench.step() for _ in range(rounds + 2)][2:]
        finally:
            bench.close()
        journal = Journal.create(Path(folder) / "journal.jsonl", {"plan": "calibration"})
        written = [
            seconds(lambda t=t: journal.append(Entry(t, 0, 1e-6, np.zeros((1, 2), np.float32))))
            for t in range(rounds)
        ]
        journal.close()
    evaluations = np.log([step["evaluate"] for step in steps])
    middle = np.median(evaluations)
    return {
        "call_s": max(0.0, float(np.exp(middle)) - median(written)) / leaves,
        "move_s": median(step["update"] for step in steps) / leaves,
        "fixed_s": median(written),
        # 1.4826 x the median deviation is the standard deviation of a normal law, whatever a few outliers do.
        "spread": float(1.4826 * np.median(np.abs(evaluations - middle))),
    }


def _link(exchange: Exchange) -> Link:
    """Latency and rate between the workers; of one worker alone, those of processes on its own machine."""
    if exchange.workers == 1:
        two, four = (measure_exchange([count], blocks=2, rounds=ROUNDS)[0].value for count in (2, 4))
        what = "processes on this machine over loopback: nothing is shaped, and more of them crowd its cores"
        return Link(workers=2, round_s=two, peer_s=max(0.0, (four - two) / 2), what=what)
    round_s = rounds_s(exchange, b"\0" * 16, ROUNDS)
    spare = max(rounds_s(exchange, b"\0" * STREAM, 5) - round_s, 1e-9)
    rate = STREAM * (exchange.workers - 1) / spare
    return Link(workers=exchange.workers, round_s=round_s, rate=rate, what="between the workers")


def rounds_s(exchange: Exchange, payload: bytes, rounds: int) -> float:
    """Median seconds of a round of one payload from every worker to every other, with nothing else going on."""
    times: list[float] = []
    exchange.all_gather(payload)
    for _ in range(rounds):
        start = time.perf_counter()
        exchange.all_gather(payload)
        times.append(time.perf_counter() - start)
    found = median(times)
    if not math.isfinite(found):
        raise ValueError("a round took no finite time")
    return found
