"""The page of a report: all runs side by side, then each run by itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from zodist.report import charts
from zodist.report.course import MEANING, crew, phases
from zodist.report.page import facts, html, image, table
from zodist.report.recorded import AXES, DIAGNOSIS, Run, differing, settings
from zodist.report.slopes import signal_to_noise, slopes
from zodist.report.summary import CHANCE, SIGNAL, duration, figures, row, score, slope_words
from zodist.report.units import amount

SHOWN_LINES = 40  # of long tables
SHOWN_NAMES = 4  # of runs with the same setting


def page(runs: Sequence[Run]) -> str:
    """The page of some runs."""
    found = [figures(run) for run in runs]
    rows = [row(one) for one in found]
    links = "".join(f'<a href="#run-{n}">{escape(run.name)}</a>' for n, run in enumerate(runs))
    title = f"zodist: {runs[0].name}" if len(runs) == 1 else f"zodist: {len(runs)} runs"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<nav><a href="#curves">curves</a>{links}</nav>',
        table(list(rows[0]), [list(one.values()) for one in rows]),
        *_differences(runs),
        *_curves(runs),
    ]
    for number, (run, one) in enumerate(zip(runs, found, strict=True)):
        parts.append(f'<h2 id="run-{number}">{escape(run.name)}</h2>')
        parts += [f"<p>Note: {escape(text)}.</p>" for text in run.missing]
        parts += [*_facts(run, one), *_evaluations(run), *_phases(run), *_workers(run), *_slopes(run, one)]
        parts += [*_digests(run), *_diagnosis(run), *_config(run)]
    return html(title, parts)


def _differences(runs: Sequence[Run]) -> list[str]:
    """The settings in which the runs differ."""
    rows = [
        [key, value, ", ".join(names) if len(names) <= SHOWN_NAMES else f"{len(names)} runs"]
        for key, values in differing(runs).items()
        for value, names in values.items()
    ]
    if not rows:
        return []
    return ["<h3>Settings that differ</h3>", table(("setting", "value", "runs"), rows)]


def _curves(runs: Sequence[Run]) -> list[str]:
    drawn = {axis: charts.curves(runs, axis) for axis in AXES}
    pictures = [
        image(data, "svg+xml", f"loss and accuracy against {AXES[axis]}")
        for axis, data in drawn.items()
        if data
    ]
    unknown = [AXES[axis] for axis, data in drawn.items() if data is None]
    thin = "; the thin line is each step's" if len(runs) == 1 else ""
    text = (
        f"Line: training loss, running mean over about 20 steps{thin}. Dots: evaluations with their standard errors, on the "
        "validation split where it was evaluated, else on the test split"
        + ("; dashed: the most frequent label. " if len(runs) == 1 else ". ")
        + "Bytes of records are what has to cross the network, whichever workers compute it: 8 for a probe's seed, 4 for "
        "each loss."
    )
    parts = ['<h2 id="curves">Curves</h2>']
    if len(runs) > 1:
        parts.append(f'<ul class="key">{"".join(_key(number, run) for number, run in enumerate(runs))}</ul>')
    parts += [f'<div class="pictures">{"".join(pictures)}</div>', f"<p>{text}</p>"]
    if unknown:
        parts.append(f"<p>Not known: {escape(', '.join(unknown))}.</p>")
    return parts


def _key(number: int, run: Run) -> str:
    style = charts.look(number)
    line = f'<span style="border-top-color:{style.color};border-top-style:{style.border}"></span>'
    return f'<li style="color:{style.color}">{line}{style.sign} {escape(run.name)}</li>'


def _facts(run: Run, found: dict[str, Any]) -> list[str]:
    head = run.header
    told = {
        "run": f"{found['run']}, seed {found['seed']}, threads of a worker: {head['threads']}",
        "method": f"{row(found)['method']}, lr {row(found)['lr']}; {found['skipped']} probes skipped",
        "task, model": f"{found['task']}; base model {head['model']['fingerprint']}, {head['model']['dtype']}",
        "steps": f"{found['steps']:,}, {len(run.entries):,} rounds",
        "time": duration(found["seconds"]) or "not known",
        "records": f"{amount(found['record_bytes'])} ({found['record_bytes']:,} bytes) in all",
        "versions": ", ".join(f"{name} {version}" for name, version in head.get("versions", {}).items()),
    }
    if run.traffic:
        sent, received = run.traffic
        told["traffic"] = (
            f"the worker that wrote this sent {amount(sent)}, received {amount(received)} of payload"
        )
    return [facts(told)]


def _evaluations(run: Run) -> list[str]:
    if not run.evaluations:
        return []
    rows = [
        [
            f"step {e['step']}, {e['split']}",
            score(e),
            "" if e["calibrated"] is None else f"{e['calibrated']:.1%}",
        ]
        for e in _ends(run.evaluations)
    ]
    return ["<h3>Evaluations</h3>", table(("after", "score", "calibrated"), rows)]


def _phases(run: Run) -> list[str]:
    found = phases(run)
    if found is None:
        return []
    parts = ["<h3>Phases</h3>"]
    whole = sum(found.total.values()) or 1.0
    rows = [
        [name, duration(spent), f"{spent / whole:.1%}", MEANING[name]] for name, spent in found.total.items()
    ]
    parts.append(table(("phase", "time", "share", "what it is"), rows))
    parts.append(image(charts.phases(found), "svg+xml", "seconds of a step by phase"))
    whose = "All workers' seconds, added up." if found.together else "Seconds of worker 0."
    return [*parts, f"<p>{whose} A point of the picture is a mean over the steps since the one before.</p>"]


def _workers(run: Run) -> list[str]:
    found = crew(run)
    if not found.workers and not found.happenings:
        return []
    parts = ["<h3>Workers</h3>"]
    if found.steady:
        return [*parts, f"<p>{run.workers}, in one session; nobody was seen to come or to go.</p>"]
    if found.workers:
        parts.append(image(charts.workers(found), "svg+xml", "workers over time"))
    rows = [[f"step {h.step}", duration(h.seconds), h.text] for h in _ends(found.happenings)]
    return [*parts, table(("after", "time", "what happened"), rows)]


def _slopes(run: Run, told: dict[str, Any]) -> list[str]:
    found = slopes(run)
    if found is None or told["slopes"] is None:
        return ["<h3>Slopes</h3>", "<p>The journal compares no losses.</p>"]
    lanes = found.values.shape[2]
    drawn = [
        image(charts.distribution(found), "svg+xml", "distribution of the slopes"),
        image(noisy, "svg+xml", "signal to noise") if (noisy := charts.noise(found)) else "",
    ]
    words = SIGNAL.format(lanes=lanes) if signal_to_noise(found) is not None else CHANCE
    return [
        "<h3>Slopes</h3>",
        facts(slope_words(told["slopes"])),
        f'<div class="pictures">{"".join(drawn)}</div>',
        f"<p>The outermost bars hold all slopes beyond. {escape(words)}</p>",
    ]


def _digests(run: Run) -> list[str]:
    if not run.digests:
        return []
    rows = [[f"step {line['step']}", line["digest"]] for line in _ends(run.digests)]
    return ["<h3>Digests of the weights</h3>", table(("after", "digest"), rows)]


def _diagnosis(run: Run) -> list[str]:
    parts = ["<h3>Method against the true gradient</h3>"]
    if not run.diagnosis:
        order = f"zodist diagnose {run.folder} --json > {run.folder / DIAGNOSIS}"
        return [*parts, f"<p>Not measured. <code>{escape(order)}</code> measures it by backpropagation.</p>"]
    told = {name: _value(value) for name, value in run.diagnosis.items() if name not in ("run", "method")}
    return [*parts, facts(told)]


def _config(run: Run) -> list[str]:
    text = run.config or "\n".join(f"{key} = {value}" for key, value in settings(run).items())
    return [f"<details><summary>Settings</summary><pre>{escape(text)}</pre></details>"]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(inner)}" for name, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ends(lines: Sequence[Any]) -> list[Any]:
    """The lines, or the first and the last of many."""
    half = SHOWN_LINES // 2
    return list(lines) if len(lines) <= SHOWN_LINES else [*lines[:half], *lines[-half:]]
