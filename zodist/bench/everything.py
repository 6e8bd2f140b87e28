"""``zodist bench all``: every benchmark within a few minutes, and the report that is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from zodist.bench.exchange import measure_exchange
from zodist.bench.line import Line, by_bench
from zodist.bench.machine import describe
from zodist.bench.memory import measure_memory
from zodist.bench.methods import measure_methods
from zodist.bench.noise import measure_noise
from zodist.bench.page import page
from zodist.bench.picture import save
from zodist.bench.population import measure_population
from zodist.bench.step import measure_step
from zodist.bench.targets import Verdict, judge
from zodist.bench.update import measure_update
from zodist.bench.variants import Settings
from zodist.errors import ZodistError

REPEATS = 7  # rounds of each; the time limits below leave fewer on a slow machine, but at least two
SHOWN = ("mezo", "zodist", "fzoo", "loren", "lozo", "hizoo")  # a method of each kind: all would take too long
LONG_TOKENS = 256

Part = tuple[str, Callable[[], list[Line]]]


def measure_all(
    settings: Settings,
    *,
    numbers: int,
    workers: Sequence[int],
    methods: Sequence[str] = SHOWN,
    repeats: int = REPEATS,
    say: Callable[[str], None],
) -> list[Line]:
    """The lines of every benchmark, in the order of the report.

    settings: the step that is measured, with one probe.  say: is told what runs now.
    """
    lines: list[Line] = []
    for name, measure in _parts(settings, numbers, workers, methods, repeats):
        say(f"measuring {name}")
        lines += measure()
    return lines


def _parts(
    settings: Settings, numbers: int, workers: Sequence[int], methods: Sequence[str], repeats: int
) -> Iterator[Part]:
    """What runs, each with its share of the time."""
    small = replace(settings, batch=4)
    yield (
        "noise",
        lambda: measure_noise(numbers=numbers, threads=settings.threads, repeats=repeats, limit_s=20),
    )
    for law in ("rademacher", "gaussian"):
        given = replace(settings, noise=law)
        yield f"step, {law}", lambda given=given: measure_step(given, repeats=repeats, limit_s=35)
    long = replace(settings, tokens=LONG_TOKENS)
    yield "step, long", lambda: measure_step(long, repeats=repeats, limit_s=40, brief=True)
    sentences = replace(settings, sentences=True)
    yield "step, sentences", lambda: measure_step(sentences, repeats=repeats, limit_s=35, brief=True)
    many = replace(small, probes=16)
    yield "population", lambda: measure_population(many, (8, 32), repeats=repeats, limit_s=40)
    yield "update", lambda: measure_update(settings, repeats=repeats, limit_s=35)
    yield "exchange", lambda: measure_exchange(workers, blocks=repeats, rounds=200)
    yield "methods", lambda: measure_methods(methods, small, repeats=repeats, limit_s=45)
    yield "memory", lambda: measure_memory(settings)


def write_report(lines: Sequence[Line], threads: int, folder: Path) -> list[Verdict]:
    """Write index.html, results.jsonl, machine.json and a plot of each benchmark; returns the targets' verdicts.

    Raises ZodistError where the folder cannot be written.
    """
    machine, verdicts, sections = describe(threads), judge(lines), by_bench(lines)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line.plain()) + "\n" for line in lines)
        (folder / "results.jsonl").write_text(text, encoding="utf-8")
        (folder / "machine.json").write_text(json.dumps(machine, indent=1) + "\n", encoding="utf-8")
        (folder / "index.html").write_text(page(machine, verdicts, sections), encoding="utf-8")
    except OSError as error:
        raise ZodistError(
            f"cannot write the report to {folder}: {error.strerror}; give another --report"
        ) from error
    for name, found in sections.items():
        save(found, folder / f"{name}.png")
    return verdicts
