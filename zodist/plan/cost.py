"""Seconds of a zeroth-order step: forward, wait, exchange, update.

    forward   items x (points x (operations / products + crossing numbers / touch) + numbers / pair rate + leaf calls)
    wait      forward x how much later than the average the slowest worker is (skew.py), whose items scatter one by one
    exchange  rounds x (latency + bytes of all frames that a worker sends / rate)
    update    walsh: one pass; independent: one draw of all numbers for every probe; low-rank: products of thin matrices

An item is one probe on the batch of one data lane.  Workers that share the cores of a machine slow each other down by as
much as they ask for more than there is.  Nothing here is fitted: every rate comes from a calibration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from zodist.plan.calibration import BYTES, Calibration, Link
from zodist.plan.shapes import Shape
from zodist.plan.skew import wait_share
from zodist.step import record_bytes

Coupling = Literal["walsh", "independent", "low-rank"]
COUPLINGS: tuple[Coupling, ...] = ("walsh", "independent", "low-rank")
LENGTH_BYTES, LEAST_ROOM = 4, 64  # of a frame: its length, and the room that it has at least
DIRECT_BYTES = (
    1 << 20
)  # of all workers' frames: up to here everyone sends to everyone at once, above that round a ring


@dataclass(frozen=True, slots=True)
class Job:
    """What a step is asked to do.

    probes, lanes: items are probes x lanes.  batch: examples of ``tokens`` tokens in an item.  points: forward passes of an
    item, rounds: exchanges of a step.  kept: vocabulary entries in the loss, None: all.  beside: workers that share one
    machine.  shard: workers that hold one copy of the model together.
    """

    workers: int = 1
    probes: int = 1
    lanes: int = 1
    batch: int = 16
    tokens: int = 32
    points: int = 2
    rounds: int = 1
    law: str = "rademacher"
    coupling: Coupling = "walsh"
    rank: int = 4
    dtype: str = "bfloat16"
    kept: int | None = 2
    beside: int = 1
    shard: int = 1

    @property
    def replicas(self) -> int:
        """Copies of the model, which take items."""
        return max(1, self.workers // self.shard)

    @property
    def items(self) -> int:
        """Items of the replica that has most."""
        return -(-self.probes * self.lanes // self.replicas)


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a step's phases, as a worker that is neither fast nor slow sees them; bytes that it sends.

    payload: records alone; frames: as handed to the network, without its headers.
    """

    forward_s: float
    wait_s: float
    exchange_s: float
    update_s: float
    payload: int
    frames: int

    @property
    def step_s(self) -> float:
        """Seconds of the whole step."""
        return self.forward_s + self.wait_s + self.exchange_s + self.update_s

    @property
    def replay_share(self) -> float:
        """The part of a step that goes into moving the weights, which every worker does for all probes."""
        return self.update_s / self.step_s

    @property
    def busy_share(self) -> float:
        """The part of a step in which losses are computed."""
        return self.forward_s / self.step_s


def cost(shape: Shape, job: Job, machine: Calibration, link: Link | None = None) -> Cost:
    """The cost of a step.  link: the network, if not the calibration's.

    Raises ConfigError if the calibration has no rate for the job's law or dtype.
    """
    link, crowd = link or machine.link, crowding(job, machine)
    forward = job.items * item_s(shape, job, machine) * crowd
    update = (update_s(shape, job, machine) / job.shard + machine.fixed_s) * crowd
    slots = -(-job.probes * job.lanes // job.replicas)
    payload = slots * record_bytes(job.points)
    frame = LENGTH_BYTES + max(LEAST_ROOM, payload)
    peers = job.replicas - 1
    sent, framed = job.rounds * peers * payload, job.rounds * peers * frame
    exchange = job.rounds * round_s(link, job.replicas, frame) if peers else 0.0
    spread = machine.spread / math.sqrt(job.items)  # items scatter one by one
    wait = forward * wait_share(job.replicas, spread) / crowd  # who waits leaves shared cores to the others
    return Cost(forward, wait, exchange, update, sent, framed)


def round_s(link: Link, workers: int, frame: int) -> float:
    """Seconds of one round of equal frames: one hop, or where the frames are many a hop for every other worker."""
    hops = workers - 1 if frame * workers > DIRECT_BYTES else 1
    latency = hops * link.round_s + link.peer_s * max(0, workers - link.workers)
    return latency + (frame * (workers - 1) / link.rate if link.rate else 0.0)


def crowding(job: Job, machine: Calibration) -> float:
    """How much longer everything takes where workers share the cores of a machine."""
    return max(1.0, job.beside * machine.threads / machine.cores) if machine.device == "cpu" else 1.0


def forward_s(shape: Shape, job: Job, machine: Calibration) -> float:
    """Seconds of one bare forward besides its calls: its products, and what lies between them."""
    products = shape.operations(job.batch, job.tokens, job.kept) / machine.rate(
        job.dtype, job.batch * job.tokens
    )
    return products + job.batch * job.tokens * shape.crossing / machine.touch[job.dtype]


def item_s(shape: Shape, job: Job, machine: Calibration) -> float:
    """Seconds of one item on a machine of its own."""
    products = job.points * forward_s(shape, job, machine)
    if job.coupling == "low-rank":
        # x W^T + (x V) U^T: two thin products beside each layer's own; no number is added to a weight.
        rows = job.batch * job.tokens
        thin = job.points * 2.0 * rows * job.rank * shape.thin / machine.rate(job.dtype, rows)
        noise = job.rank * shape.thin / machine.pace(job.law, job.dtype).seed
        return products + thin + noise + shape.leaves * machine.call_s
    pairs = -(-job.points // 2)
    noise = pairs * shape.parameters / machine.pace(job.law, job.dtype).pair
    return products + noise + shape.leaves * machine.call_s


def update_s(shape: Shape, job: Job, machine: Calibration) -> float:
    """Seconds of moving all weights by the sum of a step's directions, on a machine of its own."""
    pace = machine.pace(job.law, job.dtype)
    one_pass = shape.parameters / pace.fold + shape.leaves * machine.move_s
    if job.coupling == "independent":
        return one_pass + (job.probes - 1) * shape.parameters / pace.seed
    if job.coupling == "low-rank":
        products = (
            2.0 * shape.parameters * job.rank * job.probes / machine.rate(job.dtype, job.rank * job.probes)
        )
        drawn = job.probes * job.rank * shape.thin / pace.seed
        return max(products, 2.0 * BYTES[job.dtype] * shape.parameters / machine.copy_rate) + drawn
    return one_pass


def efficiency(shape: Shape, job: Job, machine: Calibration, link: Link | None = None) -> float:
    """Weak scaling: the step of one worker alone with as many items as each has here, over this step.

    At best 1.  The lone worker waits for nobody, sends nothing and moves its weights by its own probes alone.
    """
    alone = replace(job, workers=job.shard, probes=job.items, lanes=1, beside=min(job.beside, job.shard))
    return cost(shape, alone, machine, link).step_s / cost(shape, job, machine, link).step_s
