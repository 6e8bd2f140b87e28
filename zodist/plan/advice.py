"""What to choose: probes and data lanes for some workers, and whether to use zodist at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

from zodist.plan.calibration import Calibration, Link
from zodist.plan.cost import Cost, Job, cost
from zodist.plan.first_order import FirstOrder, memory, step_s, ways
from zodist.plan.shapes import Shape

# MeZO's own scripts run 20,000 steps of 16 examples where its first-order ones run 5 epochs of 1,000 examples in batches
# of 8, which are 625 steps (github.com/princeton-nlp/MeZO, large_models/mezo.sh and finetune.sh).
STEP_RATIO = 20_000 / 625


@dataclass(frozen=True, slots=True)
class Split:
    """Items shared out as probes x lanes.  score: seconds of a step x variance of its estimate; less is better."""

    job: Job
    cost: Cost
    score: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Another way of training beside zodist.

    slower: how many times longer zodist takes to the same loss; below 1 zodist is faster.  bytes_: of one of its workers.
    """

    way: FirstOrder
    step_s: float
    bytes_: float
    slower: float
    fits: bool


def splits(
    shape: Shape, job: Job, machine: Calibration, noise_ratio: float, link: Link | None = None
) -> list[Split]:
    """The ways to share out job.probes x job.lanes items, the best first.

    noise_ratio: variance of a slope between batches over its square.  The variance of an estimate from N probes on L
    shards each is proportional to (1 + noise_ratio / L) / N: more probes lower both parts, lanes only the second, so lanes
    pay only where every further probe makes the update slower.
    """
    items, found = job.probes * job.lanes, []
    for lanes in range(1, items + 1):
        if items % lanes:
            continue
        tried = replace(job, probes=items // lanes, lanes=lanes)
        spent = cost(shape, tried, machine, link)
        variance = (1.0 + noise_ratio / lanes) / tried.probes
        found.append(Split(tried, spent, spent.step_s * variance))
    return sorted(found, key=lambda split: (split.score, split.job.lanes))


def verdicts(
    shape: Shape,
    job: Job,
    machine: Calibration,
    *,
    step_ratio: float = STEP_RATIO,
    room: float | None = None,
    link: Link | None = None,
) -> list[Verdict]:
    """Every first-order way beside a zodist step.

    step_ratio: steps that zodist needs for one of theirs.  room: bytes of a device, None: not looked at.
    """
    ours, found = cost(shape, job, machine, link).step_s, []
    for way in ways(shape):
        theirs = step_s(way, shape, job, machine, link)
        needed = memory(way, shape, job)
        found.append(Verdict(way, theirs, needed, step_ratio * ours / theirs, room is None or needed <= room))
    return found


def sentence(found: list[Verdict], step_ratio: float) -> str:
    """In words, who is faster."""
    if_ratio = f"if zodist needs {step_ratio:.3g} times their steps"
    faster = sorted((v for v in found if v.fits and v.slower > 1), key=lambda v: -v.slower)
    if faster:
        listed = ", ".join(f"{v.way.name} {v.slower:.3g} times" for v in faster)
        return f"zodist loses here {if_ratio}: sooner at the same loss are {listed}"
    barred = [v.way.name for v in found if not v.fits]
    if barred:
        rest = f"{', '.join(barred)} would have to be sharded, which is not modelled"
        return f"zodist is the fastest here of what fits one device, {if_ratio}; {rest}"
    return f"zodist is the fastest here, {if_ratio}"
