"""How a model fits machines: bytes of a worker, the smallest shard group, the probes that share a forward.

A worker holds its share of the weights, perturbed copies of one leaf module for all points of a forward, and activations
of one layer; no gradient, no optimizer state, no activations of other layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from zodist.errors import ConfigError
from zodist.plan.calibration import BYTES, Calibration
from zodist.plan.cost import Cost, Job, cost, item_s
from zodist.plan.shapes import Shape

USABLE = 0.9  # of a device's memory: the rest is the runtime's and fragmentation
ALIVE = 12  # numbers a token and hidden number that are alive inside one layer: residual, attention, the wide inner layer
NVLINK, PCIE = (
    450e9,
    25e9,
)  # assumed bytes a second in one direction: between accelerators of a node, and from its memory
MOST_PAIRS = 64


@dataclass(frozen=True, slots=True)
class Machines:
    """What there is.  memory: bytes of one device."""

    nodes: int
    gpus: int
    memory: float


@dataclass(frozen=True, slots=True)
class Fit:
    """How a model is laid out.  pairs: two-sided probes in a forward; fetch_s: seconds to bring all weights once.

    offloaded: the weights stay in the memory of the nodes.  job, cost: a step with ``pairs`` probes for every replica.
    """

    job: Job
    cost: Cost
    pairs: int
    bytes_: float
    offloaded: bool
    fetch_s: float

    @property
    def step_s(self) -> float:
        """Seconds of a step: weights are fetched once for the pairs of a forward, ahead of the layers that need them."""
        return self.cost.step_s + max(0.0, self.fetch_s - self.cost.forward_s)


def worker_bytes(shape: Shape, job: Job, pairs: int, *, held: float) -> float:
    """Bytes of one worker.  held: the share of the weights that it keeps."""
    size = BYTES[job.dtype]
    points = job.points * pairs
    gathered = 0 if held == 1.0 else 2 * shape.largest  # the layer at work and the one that is being fetched
    copies = shape.largest * points if job.coupling != "low-rank" else 0
    activations = points * job.batch * job.tokens * shape.hidden * ALIVE
    logits = points * job.batch * (shape.vocabulary if job.kept is None else job.kept) * 4 / size
    return size * (shape.parameters * held + gathered + copies + activations + logits)


def fit(shape: Shape, job: Job, machine: Calibration, machines: Machines) -> Fit:
    """The layout with the smallest shard group that has room, and as many pairs a forward as pay.

    Raises ConfigError if not even one layer has room.
    """
    room, total = USABLE * machines.memory, machines.nodes * machines.gpus
    shards = [
        count for count in range(1, total + 1) if machines.gpus % count == 0 or count % machines.gpus == 0
    ]
    shards = [count for count in shards if total % count == 0]
    for shard in shards:
        if worker_bytes(shape, job, 1, held=1.0 / shard) <= room:
            return _laid_out(shape, job, machine, machines, shard, offloaded=False)
    if worker_bytes(shape, job, 1, held=0.0) <= room:
        return _laid_out(shape, job, machine, machines, 1, offloaded=True)
    need = worker_bytes(shape, job, 1, held=0.0) / 1e9
    raise ConfigError(
        f"one layer of {shape.name} with its activations takes {need:.1f} GB, a device has {room / 1e9:.1f} to give; lower "
        "--batch or --tokens, or use devices with more memory"
    )


def _laid_out(
    shape: Shape, job: Job, machine: Calibration, machines: Machines, shard: int, *, offloaded: bool
) -> Fit:
    held = 0.0 if offloaded else 1.0 / shard
    size = BYTES[job.dtype]
    if offloaded:
        fetch_s = size * shape.parameters / PCIE
    else:
        link = machine.link.rate or NVLINK
        rate = NVLINK if shard <= machines.gpus else min(NVLINK, link)
        fetch_s = size * shape.parameters * (shard - 1) / shard / rate
    own = replace(job, workers=machines.nodes * machines.gpus, shard=shard)
    pairs = 1
    while pairs < MOST_PAIRS and pairs * item_s(shape, own, machine) < fetch_s:
        if worker_bytes(shape, own, pairs + 1, held=held) > USABLE * machines.memory:
            break
        pairs += 1
    own = replace(own, probes=max(job.probes, pairs * own.replicas))
    needed = worker_bytes(shape, own, pairs, held=held)
    return Fit(own, cost(shape, own, machine), pairs, needed, offloaded, fetch_s)
