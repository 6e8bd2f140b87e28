"""One measured figure beside its physical ceiling and its peer: what every benchmark returns and every reader takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """A figure.  what names it, with ``case``, within its benchmark; case: noise and shape, where these are chosen.

    setting: the model, shapes and threads that it was measured with.

    value: the median of its rounds, low and high: the smallest and largest of them; all in ``unit``.
    more: whether more of it is better, as of a rate; less is better of seconds and bytes.
    ceiling: the physical limit, measured in the same run, and peer: what others do instead, in the same unit; ceiling_is
    and peer_is say what they are.  note: what a reader must know, above all where a figure is not measured but calculated.
    """

    bench: str
    what: str
    value: float
    unit: str
    setting: str = ""
    more: bool = False
    low: float | None = None
    high: float | None = None
    rounds: int = 1
    ceiling: float | None = None
    ceiling_is: str = ""
    peer: float | None = None
    peer_is: str = ""
    note: str = ""
    case: str = ""

    @property
    def name(self) -> str:
        """What and case: no two lines of one run have the same bench and name."""
        return f"{self.what}, {self.case}" if self.case else self.what

    @property
    def ratio(self) -> float | None:
        """The value over its ceiling: at best 1, of a rate from below and of seconds or bytes from above."""
        return self.value / self.ceiling if self.ceiling else None

    @property
    def speedup(self) -> float | None:
        """How many times better than the peer."""
        if self.peer is None or self.value <= 0 or self.peer <= 0:
            return None
        return self.value / self.peer if self.more else self.peer / self.value

    def plain(self) -> dict[str, Any]:
        """The line as JSON-able values, with ``ratio`` and ``speedup``; None where a figure has no meaning.

        ``what`` is the name, which is enough to find a line by.
        """
        return {**asdict(self), "what": self.name, "ratio": self.ratio, "speedup": self.speedup}


def counted(count: int, noun: str) -> str:
    """A number and its noun, in the plural where it takes one."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def amount(value: float | None, unit: str = "") -> str:
    """A figure with three digits for people; empty for none."""
    if value is None:
        return ""
    factor, shown = _scale(value, unit)
    return f"{_digits(value * factor)} {shown}".rstrip()


def _between(line: Line) -> str:
    """The range of a line's rounds, in the unit in which its value is shown."""
    if line.low is None or line.high is None or line.rounds < 2:
        return ""
    factor, _ = _scale(line.value, line.unit)
    return f"{_digits(line.low * factor)}–{_digits(line.high * factor)}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _scale(value: float, unit: str) -> tuple[float, str]:
    """A factor and a unit in which a figure has few zeros."""
    if unit != "s" or value >= 0.1 or value <= 0:
        return 1.0, unit
    return (1e3, "ms") if value >= 1e-3 else (1e6, "µs")


def by_bench(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each benchmark, in the order of first appearance."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.bench, []).append(line)
    return found


def by_setting(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each setting, in the order of first appearance."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.setting, []).append(line)
    return found


NAMED = 4  # lines that the legend names; what holds for more needs no list
NOTES = 4  # different notes that fit under a table; more of them become a column


def columns(lines: Sequence[Line]) -> tuple[str, ...]:
    """The heads of the cells of a table of these lines; their range goes from the smallest round to the largest."""
    heads = ("what", "value", "range", "ceiling", "ratio", "peer", "× peer")
    return (*heads, "note") if _many_notes(lines) else heads


def cells(line: Line, count: int) -> tuple[str, ...]:
    """The line's first ``count`` cells, in the order of ``columns``."""
    return (
        line.what,
        amount(line.value, line.unit),
        _between(line),
        amount(line.ceiling, line.unit),
        amount(line.ratio),
        amount(line.peer, line.unit),
        amount(line.speedup),
        line.note,
    )[:count]


def legend(lines: Sequence[Line]) -> list[str]:
    """What ceilings, peers and notes stand for, each said once, with the figures that it is about where they are few."""
    said: dict[str, list[str]] = {}
    for line in lines:
        notes = () if _many_notes(lines) else (("note", line.note),)
        for label, text in (("ceiling", line.ceiling_is), ("peer", line.peer_is), *notes):
            if text:
                said.setdefault(f"{label}: {text}", []).append(line.what)
    return [
        text if len(names) > NAMED or len(names) == len(lines) else f"{text} ({'; '.join(names)})"
        for text, names in said.items()
    ]


def _many_notes(lines: Sequence[Line]) -> bool:
    return len({line.note for line in lines} - {""}) > NOTES
