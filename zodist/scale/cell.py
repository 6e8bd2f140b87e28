"""One measurement: a system on a model, by some workers, on links of some rate and delay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from zodist.errors import ConfigError

SYSTEMS = ("zodist", "naive", "ddp", "ddp-lora", "diloco-50", "diloco-500")
OF_PROBES = ("zodist", "naive")  # systems whose step has probes; the others' has one batch a worker


@dataclass(frozen=True, slots=True)
class Link:
    """How every host is connected.  mbit: of its link, each way, None: not limited; delay, jitter: one way, milliseconds."""

    mbit: float | None = None
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0

    @property
    def shaped(self) -> bool:
        """Whether anything is asked of the link."""
        return self.mbit is not None or self.delayed

    @property
    def delayed(self) -> bool:
        """Whether frames have to pass the switch in user space."""
        return bool(self.delay_ms or self.jitter_ms or self.loss)

    def __str__(self) -> str:
        rate = "no limit" if self.mbit is None else f"{self.mbit:g} Mbit/s"
        loss = f", {self.loss:.1%} lost" if self.loss else ""
        jitter = f" ± {self.jitter_ms:g}" if self.jitter_ms else ""
        return f"{rate}, {self.delay_ms:g}{jitter} ms{loss}"


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured.  probes: of a step of all workers together, 0 for systems without.  method: of zodist alone."""

    system: str
    model: str
    workers: int
    probes: int
    link: Link
    method: str = "mezo"
    batch: int = 4
    tokens: int = 32
    dtype: str = "float32"
    noise: str = "rademacher"
    threads: int = 1

    @property
    def key(self) -> str:
        """The same text for the same measurement."""
        return json.dumps(self.plain(), sort_keys=True)

    def plain(self) -> dict[str, Any]:
        """The cell as JSON-able values, flat."""
        values = asdict(self)
        return {**values, **values.pop("link")}

    @classmethod
    def of(cls, line: dict[str, Any]) -> Cell:
        """The cell of a line of results, or of ``plain``."""
        link = Link(**{name: line[name] for name in Link.__slots__})
        return cls(link=link, **{name: line[name] for name in cls.__slots__ if name != "link"})

    def __str__(self) -> str:
        probes = f", {self.probes} probes" if self.probes else ""
        method = f" ({self.method})" if self.system == "zodist" else ""
        return f"{self.system}{method}, {self.workers} workers{probes}, {self.link}"


def grid(
    first: Cell,
    *,
    systems: Sequence[str],
    methods: Sequence[str],
    workers: Sequence[int],
    probes: Sequence[int],
    rates: Sequence[float | None],
    delays: Sequence[float],
) -> list[Cell]:
    """All combinations, fewest workers first, then link by link; each measurement once.

    first: has what all cells share.  One worker has no link, so it is measured on none.
    """
    for system in systems:
        if system not in SYSTEMS:
            raise ConfigError(f"--systems {system!r} is not known; choose from {', '.join(SYSTEMS)}")
    found: dict[str, Cell] = {}
    links = [replace(first.link, mbit=rate, delay_ms=delay) for rate, delay in product(rates, delays)]
    for count in sorted(workers):
        for link in links if count > 1 else [Link()]:
            for system in systems:
                named = methods if system == "zodist" else ["mezo"]
                for method, asked in product(named, probes if system in OF_PROBES else [0]):
                    cell = replace(
                        first, system=system, workers=count, link=link, method=method, probes=asked
                    )
                    found.setdefault(cell.key, cell)
    return list(found.values())
