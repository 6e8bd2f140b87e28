"""The targets of a step on the CPU, each as a ratio of figures of one run, and whether they are reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zodist.bench.line import Line

Found = Mapping[tuple[str, str], Line]  # by benchmark and what
STEP, LONG, POPULATION, SENTENCES = "16 x 32", "16 x 256", "4 x 32", "16 x 4 to 37"  # examples x tokens


@dataclass(frozen=True, slots=True)
class Target:
    """text: what is asked; figure: takes it from the lines, KeyError if they lack it; limit: the bound on it.

    more: whether the bound is from below.  unit: what the figure is followed by.
    """

    text: str
    figure: Callable[[Found], float | None]
    limit: float
    more: bool = False
    unit: str = "×"

    @property
    def bound(self) -> str:
        """The bound for people."""
        return f"{'≥' if self.more else '≤'} {self.limit:g} {self.unit}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, its figure (None: not measured) and whether it is reached."""

    target: Target
    figure: float | None

    @property
    def reached(self) -> bool | None:
        """None where there is no figure."""
        if self.figure is None:
            return None
        return self.figure >= self.target.limit if self.target.more else self.figure <= self.target.limit


def _ratio(bench: str, what: str) -> Callable[[Found], float | None]:
    return lambda found: found[bench, what].ratio


def _speedup(bench: str, what: str) -> Callable[[Found], float | None]:
    return lambda found: found[bench, what].speedup


def _over(bench: str, above: str, below: str) -> Callable[[Found], float]:
    return lambda found: found[bench, above].value / found[bench, below].value


def _best_population(found: Found) -> float | None:
    """The best number of points a forward, which is what an automatic choice would take."""
    speedups = [
        line.speedup
        for (bench, what), line in found.items()
        if bench == "population"
        and what.startswith("16 probes,")
        and what.endswith(POPULATION)
        and line.speedup
    ]
    return max(speedups, default=None)


TARGETS = (
    Target("Gaussian numbers against torch.randn", _speedup("noise", "gaussian numbers, float32"), 6, True),
    Target(
        "Rademacher perturbation of bfloat16 into scratch, rate over that of copy_",
        _ratio("noise", "rademacher perturbation, bfloat16"),
        0.7,
        True,
    ),
    Target(
        f"step over two bare forwards, {STEP}, Rademacher", _ratio("step", f"step, rademacher, {STEP}"), 1.4
    ),
    Target(f"step over two bare forwards, {STEP}, Gaussian", _ratio("step", f"step, gaussian, {STEP}"), 1.9),
    Target(
        f"step over two bare forwards, {LONG}, Rademacher", _ratio("step", f"step, rademacher, {LONG}"), 1.1
    ),
    Target(
        f"step against in-place MeZO as published, {STEP}",
        _speedup("step", f"step, rademacher, {STEP}"),
        6.5,
        True,
    ),
    Target(
        f"step on packed sentences against in-place MeZO on padded ones, {SENTENCES}",
        _speedup("step", f"step, rademacher, {SENTENCES}"),
        10,
        True,
    ),
    Target(
        f"16 probes in population forwards against a forward each, {POPULATION}", _best_population, 1.5, True
    ),
    Target("update of 1,024 coded probes over that of one", _over("update", "1,024 coded", "1 coded"), 1.3),
    Target(
        "update of 1,024 coded probes against independent seeds, on one matrix",
        _speedup("update", "one matrix, 1,024 coded"),
        300,
        True,
    ),
    Target(
        "memory of a step above the bare forward, over the largest layer",
        _ratio("memory", f"step above bare, rademacher, {STEP}"),
        1.1,
    ),
    Target(
        "Python in a step beyond that of bare forwards",
        lambda found: found["profile", f"Python in a step beyond bare forwards, rademacher, {STEP}"].value,
        3,
        unit="%",
    ),
)


def judge(lines: Sequence[Line]) -> list[Verdict]:
    """Every target with what these lines say about it."""
    found = {(line.bench, line.name): line for line in lines}
    verdicts = []
    for target in TARGETS:
        try:
            verdicts.append(Verdict(target, target.figure(found)))
        except KeyError:
            verdicts.append(Verdict(target, None))
    return verdicts
