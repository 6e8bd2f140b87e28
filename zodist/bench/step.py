"""``zodist bench step``: time and memory of a training step beside its limit and beside the step it replaces.

The limit is two forwards per probe of the bare model with the same few logits; the step it replaces is the
in-place step as published (zodist.bench.inplace).  All variants run in turn in one process, ``repeats``
rounds of it, so that what else the machine does hits all alike; a figure is the median of its rounds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from rich.table import Table

from zodist.bench.memory import peak_bytes
from zodist.bench.variants import Bench, Seconds, Settings, load
from zodist.errors import ConfigError
from zodist.threads import set_threads

RATIOS: dict[str, tuple[str, str]] = {
    "ratio_to_bare": ("step", "bare_forwards"),
    "speedup_over_inplace": ("inplace_step", "step"),
    "update_ratio": ("update_wide", "update_one"),
}
PEAKS = {"peak_bytes": "step", "bare_peak_bytes": "bare_forwards", "inplace_peak_bytes": "inplace_step"}


def measure_step(
    *,
    model: str,
    noise: str,
    batch: int,
    tokens: int,
    dtype: str,
    probes: int,
    threads: int,
    repeats: int,
    columns: int = 2,
    wide: int = 1024,
) -> dict[str, object]:
    """Measure every variant; the result is JSON-able.

    columns: vocabulary entries that enter the loss, 0 for all.  wide: Walsh-coded probes of the wide update.
    Keys: *_s seconds, medians; ratios of medians; *_bytes (None off Linux); ``spread``: smallest, median and
    largest of each time, and of each ratio taken round by round; ``load``: the machine's load average before the
    rounds, since times taken beside other work are worth little.
    Raises ZodistError, with one sentence, for a setting that cannot be measured.
    """
    settings = Settings(model, noise, batch, tokens, dtype, probes, threads, columns, wide)
    if repeats < 1:
        raise ConfigError(f"repeats = {repeats} must be >= 1")
    set_threads(threads)
    loaded = load(settings)
    peaks = {key: peak_bytes(settings, variant) for key, variant in PEAKS.items()}
    bench = Bench(loaded, settings)
    try:
        load_before = os.getloadavg()[0]
        rounds = _rounds(bench, repeats)
    finally:
        bench.close()
    times = {name: [seconds[name] for seconds in rounds] for name in rounds[0]}
    middle = {name: median(values) for name, values in times.items()}
    spread = {f"{name}_s": _spread(values) for name, values in times.items()}
    for name, (above, below) in RATIOS.items():
        spread[name] = _spread([a / b for a, b in zip(times[above], times[below], strict=True)])
    return {
        **settings.plain(),
        "repeats": repeats,
        "torch": torch.__version__,
        "load": load_before,
        "parameters": sum(p.numel() for p in bench.weights),
        **{f"{name}_s": seconds for name, seconds in middle.items()},
        **{name: middle[above] / middle[below] for name, (above, below) in RATIOS.items()},
        **peaks,
        "largest_layer_bytes": max(p.numel() * p.element_size() for p in bench.weights),
        "spread": spread,
    }


def _rounds(bench: Bench, repeats: int) -> list[Seconds]:
    """The seconds of every round, after one that loads code, compiles kernels and sizes buffers."""
    rounds: list[Seconds] = []
    for _ in range(repeats + 1):
        seconds: Seconds = {}
        for variant in bench.VARIANTS:
            seconds |= bench.run(variant)
        rounds.append(seconds)
    return rounds[1:]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}


def table(result: dict[str, Any]) -> Table:
    """The result for a person."""
    r = result
    probes, threads = (f"{r[name]} {name if r[name] > 1 else name[:-1]}" for name in ("probes", "threads"))
    title = (
        f"{r['model']}, {r['parameters'] / 1e6:,.0f} M parameters, {r['dtype']}, {r['noise']},"
        f" {r['batch']} x {r['tokens']} tokens, {probes}, {threads}"
    )
    layer, rounds = _mib(r["largest_layer_bytes"]), f"medians of {r['repeats']} interleaved rounds"
    caption = f"{rounds}; largest layer {layer}; torch {r['torch']}; load {r['load']:.1f}"
    out = Table("", title=title, caption=caption)
    for name in ("seconds", "smallest - largest", "x bare", "peak memory"):
        out.add_column(name, justify="right")
    rows: list[tuple[str, str, str | None]] = [
        ("bare forwards, the loss's logits", "bare_forwards_s", "bare_peak_bytes"),
        ("bare forwards, all logits", "bare_forwards_all_logits_s", None),
        ("zodist step", "step_s", "peak_bytes"),
        ("  evaluation", "evaluate_s", None),
        ("  update", "update_s", None),
        ("in-place step, as published", "inplace_step_s", "inplace_peak_bytes"),
        ("update, 1 probe", "update_one_s", None),
        (f"update, {r['wide']:,} probes", "update_wide_s", None),
    ]
    for label, key, peak in rows:
        low, high = r["spread"][key]["min"], r["spread"][key]["max"]
        share = r[key] / r["bare_forwards_s"]
        out.add_row(
            label, f"{r[key]:.3f}", f"{low:.3f} - {high:.3f}", f"{share:.2f}", _mib(r[peak]) if peak else ""
        )
    out.add_section()
    out.add_row("in-place step / zodist step", f"{r['speedup_over_inplace']:.2f}")
    return out


def _mib(count: int | None) -> str:
    return "?" if count is None else f"{count / 2**20:,.1f} MiB"
