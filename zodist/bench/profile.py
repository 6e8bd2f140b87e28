"""Where the time of a step goes: torch's operations, our kernels, the journal's disk, and the rest, which is Python.

Torch's profiler times every operation that Python calls (those that operations call in turn are inside); our kernels and
the journal's writes are timed around their calls.  What is left of the step's wall-clock time is the interpreter, numpy's
small arrays, dispatch, and the profiler's own cost, which also falls in there: so the share is an upper bound.  The bare
forwards are accounted for in the same way, since the interpreter also runs the model's own modules.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields, replace
from statistics import median
from time import perf_counter
from typing import Any

from torch.autograd.profiler import profile

from zodist.bench.line import Line
from zodist.bench.variants import Bench, Settings
from zodist.kernels import Forms, Kernels
from zodist.models import collect

RUNS = 3  # profiled runs of each
SHOWN = 8  # operations and kernels named in the profile; the others are added up

Spent = dict[str, float]


def profile_step(model: Any, settings: Settings) -> list[Line]:
    """The profile of a step, its Python share and that of the bare forwards; the model must be free of evaluators."""
    spent: Spent = defaultdict(float)
    params = collect(model)
    timed = {p.kernels: _timed(p.kernels, spent) for p in params}
    bench = Bench(model, settings, [replace(p, kernels=timed[p.kernels]) for p in params])
    bench.journal.append = _timing(bench.journal.append, "journal on disk", spent)
    try:
        bench.step()
        steps = [_account(bench.step, spent) for _ in range(RUNS)]
        bares = [_account(bench.bare_forwards, spent) for _ in range(RUNS)]
    finally:
        bench.close()
    shared: dict[str, Any] = {"setting": str(settings), "case": settings.case}
    shares = [_share("Python in a step", steps), _share("Python in bare forwards", bares)]
    shares.append(_share("Python in a step beyond bare forwards", steps, median(map(_python, bares))))
    whole, parts = sorted(steps, key=lambda found: found[0])[RUNS // 2]
    named = sorted(parts, key=lambda name: -parts[name])
    shown = {name: parts[name] for name in named[:SHOWN]}
    shown |= {
        "other operations and kernels": sum(parts[name] for name in named[SHOWN:]),
        "Python": whole - sum(parts.values()),
    }
    step: dict[str, Any] = {
        "ceiling": whole,
        "ceiling_is": "the profiled step, so that the ratio is a share of it",
    }
    lines = [Line("profile", name, value, "s", **step) for name, value in shown.items()]
    return [replace(line, **shared) for line in shares + lines]


def _python(found: tuple[float, Spent]) -> float:
    """The seconds of a run that are neither operation, nor kernel, nor disk."""
    return found[0] - sum(found[1].values())


def _share(what: str, found: list[tuple[float, Spent]], less: float = 0.0) -> Line:
    """The share of the runs' time that is neither operation, nor kernel, nor disk; less: seconds of it that do not count."""
    shares = [100.0 * (_python(run) - less) / run[0] for run in found]
    return Line(
        "profile",
        what,
        median(shares),
        "%",
        low=min(shares),
        high=max(shares),
        rounds=len(shares),
        note="wall clock less torch's operations, our kernels and the journal: an upper bound",
    )


def _account(run: Callable[[], Any], spent: Spent) -> tuple[float, Spent]:
    """Seconds of one run under the profiler, and seconds by operation, kernel and journal."""
    spent.clear()
    with profile(use_kineto=False) as found:
        start = perf_counter()
        run()
        whole = perf_counter() - start
    parts = defaultdict(float, spent)
    for event in found.function_events or ():  # pyright: ignore[reportOptionalMemberAccess]
        if event.cpu_parent is None:
            parts[event.name] += event.time_range.elapsed_us() / 1e6
    return whole, dict(parts)


def _timed(kernels: Kernels, spent: Spent) -> Kernels:
    """The same kernels, whose calls are timed by name."""
    found = {field.name: getattr(kernels, field.name) for field in fields(kernels)}
    return replace(
        kernels,
        **{
            name: Forms(*(_timing(form, f"kernel {name}", spent) for form in forms))
            for name, forms in found.items()
            if isinstance(forms, Forms)
        },
    )


def _timing(call: Callable[..., Any], name: str, spent: Spent) -> Callable[..., Any]:
    def timed(*args: Any) -> Any:
        start = perf_counter()
        try:
            return call(*args)
        finally:
            spent[name] += perf_counter() - start

    return timed
