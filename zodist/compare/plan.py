"""What is compared: entries, the baselines that always take part, budgets, and the settings of every run.

An entry is a method with its settings and its rule.  The name ``x`` means the file methods/x.toml beside the config,
which holds [method], [rule] (over the config's own, key by key) and perhaps [compare]; without such a file, the method
of that name with its default settings and the config's [rule].  The config's own [method] takes no part.

Baselines: mezo, reported at its tuned rate and at 2 and 4 times that rate; mezo with as many probes a step as the
forward passes of the costliest other entry allow (at least 2), to tell a better direction from mere averaging; and meazo,
the loss-normalised step, where it is installed.

Seeds: rates are tuned on seeds that the reported runs do not use.  Warm-up and evaluations lie at the same share of every
run as in the config.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from zodist.compare import cost
from zodist.compare.cost import Cost
from zodist.config import (
    Config,
    Finite,
    Method,
    Places,
    Rule,
    Section,
    Text,
    nearest,
    sentence,
    unknown_key,
    unknown_section,
)
from zodist.config import settings as settings
from zodist.errors import ConfigError
from zodist.methods import METHODS

GRID = (0.25, 0.5, 1.0, 2.0, 4.0)
TUNING = 1_000  # seeds from run.seed + 1000 on are for tuning
MEZO, NORMALISED = "mezo", "meazo"
MULTIPLES = (1, 2, 4)  # of its tuned rate, at which MeZO is reported


class CompareTable(Section):
    """[compare] of an entry's file: how it is called, and the factors of rule.lr that are tried."""

    label: Text | None = None
    grid: Annotated[list[Annotated[Finite, Field(gt=0)]], Field(min_length=1)] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One method of a comparison.  tune, final: what the two budgets pay for; multiples: of the tuned rate."""

    name: str
    label: str
    method: Method
    rule: Rule
    grid: tuple[float, ...]
    tune: Cost = Cost(0, 0)
    final: Cost = Cost(0, 0)
    multiples: tuple[int, ...] = (1,)

    @property
    def rates(self) -> list[float]:
        """The learning rates that are tried, lowest first."""
        return sorted({rounded(factor * self.rule.lr) for factor in self.grid})

    def plain(self) -> dict[str, Any]:
        """What its runs depend on, JSON-able."""
        method = {"name": self.method.name, **self.method.settings.model_dump(mode="json")}
        return {"method": method, "rule": self.rule.model_dump(mode="json"), "grid": list(self.grid)}


@dataclass(frozen=True, slots=True)
class Planned:
    """One run.  phase: "tune" or "final"."""

    entry: str
    phase: str
    rate: float
    seed: int
    config: Config

    @property
    def folder(self) -> Path:
        return Path(self.config.run.folder)

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.entry}/{self.folder.name}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A comparison.  config: the common settings, with the threads of a run.  notes: sentences for the reader."""

    config: Config
    entries: tuple[Entry, ...]
    budget: int
    seeds: int
    tune_budget: int
    tune_seeds: int
    out: Path
    notes: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """What all runs in the folder have in common."""
        common = self.config.plain()
        del common["method"], common["run"]["folder"]
        budgets = {"budget": self.budget, "seeds": self.seeds}
        return {**budgets, "tune_budget": self.tune_budget, "tune_seeds": self.tune_seeds, "config": common}

    def tuning(self, entry: Entry) -> list[Planned]:
        """The runs that choose an entry's rate."""
        first = self.config.run.seed + TUNING
        return [
            self._run(entry, "tune", rate, first + k) for rate in entry.rates for k in range(self.tune_seeds)
        ]

    def finals(self, entry: Entry, rate: float) -> list[Planned]:
        """The runs that are reported, given the tuned rate."""
        rates = [rounded(multiple * rate) for multiple in entry.multiples]
        first = self.config.run.seed
        return [self._run(entry, "final", r, first + k) for r in rates for k in range(self.seeds)]

    def _run(self, entry: Entry, phase: str, rate: float, seed: int) -> Planned:
        c, final = self.config, phase == "final"
        steps = (entry.final if final else entry.tune).steps
        share = steps / c.run.steps
        folder = folder_of(self.out, entry.name, rate, seed)
        run = c.run.model_copy(update={"folder": folder.as_posix(), "seed": seed, "steps": steps})
        rule = entry.rule.model_copy(
            update={"lr": rate, "warmup": min(steps, round(entry.rule.warmup * share))}
        )
        every = max(1, round(c.output.evaluate_every * share)) if final and c.output.evaluate_every else 0
        output = {"evaluate_every": every, "snapshot_every": 0, "keep": 0, "plot": False, "test": final}
        # The journal is all that a run of a comparison keeps of its weights; one digest, at the end, names them.
        exchange = c.exchange.model_copy(update={"kind": "local", "digest_every": steps})
        parts = {"run": run, "rule": rule, "exchange": exchange, "method": entry.method}
        parts["output"] = c.output.model_copy(update=output)
        return Planned(entry.name, phase, rate, seed, c.model_copy(update=parts))


def folder_of(out: Path, entry: str, rate: float, seed: int) -> Path:
    """Where a run of a comparison lies; the seed tells tuning runs from reported ones."""
    return out / "runs" / entry / f"{rate!r}-seed{seed}"


def rounded(rate: float) -> float:
    """A rate of 6 digits: its name is its value."""
    return float(f"{rate:.6g}")


def make_plan(
    path: Path,
    names: Sequence[str],
    *,
    budget: int,
    seeds: int,
    out: Path,
    threads: int,
    grid: Sequence[float] = GRID,
    tune_budget: int = 0,
    tune_seeds: int = 1,
) -> Plan:
    """The comparison of some entries on a config's task.

    names: entries; "all": every method and every file beside them.  budget: forward passes of a reported run;
    tune_budget: of a tuning run (0: the same).  threads: of a run.
    Raises ConfigError with the place and what to change.
    """
    tables, places = settings.read(path)
    config = settings.validate(tables, path, places)
    if config.task.validation == 0:
        raise ConfigError(
            f"{places.where('task', 'validation')}: rates are tuned on task.validation; set it above 0"
        )
    if not grid or min(grid) <= 0:
        raise ConfigError("--grid must be factors above 0 of the learning rate, such as 0.25,0.5,1,2,4")
    if max(seeds, tune_seeds) > TUNING:
        raise ConfigError(f"--seeds and --tune-seeds can be at most {TUNING}")
    config = config.model_copy(update={"run": config.run.model_copy(update={"threads": threads})})
    tune_budget = tune_budget or budget
    notes: list[str] = []
    wanted = list(dict.fromkeys(names))
    if "all" in wanted:
        files = sorted(file.stem for file in _file(path, MEZO).parent.glob("*.toml"))
        wanted = list(dict.fromkeys([*(n for n in wanted if n != "all"), *sorted({*METHODS, *files})]))
    for baseline in (MEZO, NORMALISED):
        if baseline in wanted:
            continue
        if baseline in METHODS or _file(path, baseline).is_file():
            wanted.append(baseline)
        else:
            notes.append(
                f"the baseline of the loss-normalised step is missing: no method {baseline!r} is installed"
            )
    found = [_entry(name, tables, path, places, tuple(grid)) for name in wanted]
    paid = [_paid(entry, config.batch.data_lanes, budget, tune_budget) for entry in found]
    mezo = next(entry for entry in paid if entry.name == MEZO)
    if mezo.method.name != MEZO:
        raise ConfigError(
            f"{_file(path, MEZO)}: the entry 'mezo' is the baseline; name another method otherwise"
        )
    averaged = _averaged(mezo, max(entry.final.per_step for entry in paid), config.batch.data_lanes)
    paid[paid.index(mezo)] = replace(mezo, multiples=MULTIPLES)
    if "mezo-averaged" not in wanted:
        paid.append(_paid(averaged, config.batch.data_lanes, budget, tune_budget))
    labels = [entry.label for entry in paid]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"two entries are labelled {label!r}; give one another [compare] label")
    return Plan(config, tuple(paid), budget, seeds, tune_budget, tune_seeds, out, tuple(notes))


def _file(config: Path, name: str) -> Path:
    return config.parent / "methods" / f"{name}.toml"


def _entry(
    name: str, tables: Mapping[str, Any], path: Path, places: Places, grid: tuple[float, ...]
) -> Entry:
    """The entry of a name, its keys checked."""
    file = _file(path, name)
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not (file.is_file() or name in METHODS):
        files = sorted(other.stem for other in file.parent.glob("*.toml"))
        raise ConfigError(f"--methods: {name!r} is not a method{nearest(name, [*METHODS, *files])}")
    own: dict[str, Any] = {"method": {"name": name}}
    compared = CompareTable()
    if file.is_file():
        own, places = settings.read(file)
        compared = _compare_table(own, places)
        own.setdefault("method", {"name": name})
        if isinstance(own["method"], dict) and name in METHODS:
            own["method"].setdefault("name", name)
    rule = own.get("rule", {})
    if not isinstance(rule, dict):
        raise ConfigError(f"{places.where('rule')}: 'rule' must be a section; write [rule]")
    merged = {**tables, "method": own["method"], "rule": {**tables.get("rule", {}), **rule}}
    checked = settings.validate(merged, path, places)
    tried = tuple(compared.grid) if compared.grid else grid
    if len(set(tried)) != len(set(grid)):
        raise ConfigError(
            f"{places.where('compare', 'grid')}: compare.grid has {len(set(tried))} factors, the other entries "
            f"try {len(set(grid))}; give it as many"
        )
    return Entry(name, compared.label or name, checked.method, checked.rule, tried)


def _compare_table(own: dict[str, Any], places: Places) -> CompareTable:
    """Take [compare] out of an entry's tables; refuse sections that an entry does not have."""
    keys = {"method": [], "rule": list(Rule.model_fields), "compare": list(CompareTable.model_fields)}
    for section, table in own.items():
        if section not in keys:
            raise ConfigError(unknown_section(section, table, keys, places))
    table = own.pop("compare", {})
    if not isinstance(table, dict):
        raise ConfigError(f"{places.where('compare')}: 'compare' must be a section; write [compare]")
    for key in table:
        if key not in keys["compare"]:
            raise ConfigError(unknown_key("compare", key, keys, places))
    try:
        return CompareTable.model_validate(table)
    except ValidationError as error:
        raise ConfigError(sentence(error, places, ("compare",))) from error


def _paid(entry: Entry, data_lanes: int, budget: int, tune_budget: int) -> Entry:
    """The entry with the steps that the budgets pay for."""
    costs = [cost.within(forwards, entry.method, data_lanes) for forwards in (tune_budget, budget)]
    if not all(found.steps for found in costs):
        one = next(cost.forwards_of_steps(entry.method, data_lanes))
        raise ConfigError(
            f"a step of {entry.name!r} takes {one} forward passes, more than the budget of "
            f"{min(budget, tune_budget)}; raise --budget or --tune-budget, or lower its probes"
        )
    return replace(entry, tune=costs[0], final=costs[1])


def _averaged(mezo: Entry, most: float, data_lanes: int) -> Entry:
    """MeZO with the most probes whose forward passes do not exceed those of the costliest step, at least 2."""
    plain = mezo.method.settings.model_dump()
    kind = type(mezo.method.settings)

    def with_probes(n: int) -> Method:
        return Method(name=MEZO, settings=kind.model_validate({**plain, "probes": n}, strict=True))

    probes = max(2, int(most // cost.forwards_per_step(with_probes(1), data_lanes, 1)))
    return replace(
        mezo,
        name=f"mezo-averaged-{probes}",
        label="mezo averaged",
        method=with_probes(probes),
        multiples=(1,),
    )
