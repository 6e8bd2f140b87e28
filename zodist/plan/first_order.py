"""Seconds of a step of training with gradients on the same machines: what zodist has to be compared with.

    full      DistributedDataParallel: forward, backward (twice a forward), ring all-reduce of all gradients
    adapters  the same with LoRA: gradients of the adapters alone
    diloco    steps without network, every H of them one all-reduce of all weights

Communication is not hidden behind the backward pass here.  That is a little hard on ``full`` where the network is fast,
and makes no difference where it is slow.
"""

from __future__ import annotations

from dataclasses import dataclass

from zodist.plan.calibration import BYTES, Calibration, Link
from zodist.plan.cost import Job, crowding, forward_s
from zodist.plan.shapes import Shape
from zodist.plan.skew import wait_share

BACKWARD = 2.0  # forwards that a backward pass costs
STATE_BYTES = 8  # of AdamW for a trained weight
LORA_RANK, LORA_LAYERS = 8, 2  # adapters beside the query and the value of every layer
ACTIVATIONS = 34  # bytes a token, layer and hidden number that a backward pass keeps; arXiv:2205.05198, without attention


@dataclass(frozen=True, slots=True)
class FirstOrder:
    """A way to train with gradients.  trained: the weights it trains; every: steps between all-reduces."""

    name: str
    trained: int
    every: int = 1


def ways(shape: Shape) -> list[FirstOrder]:
    """The four ways that the sweep measures as well."""
    adapters = LORA_LAYERS * shape.layers * LORA_RANK * 2 * shape.hidden
    return [
        FirstOrder("ddp", shape.parameters),
        FirstOrder("ddp-lora", adapters),
        FirstOrder("diloco-50", shape.parameters, 50),
        FirstOrder("diloco-500", shape.parameters, 500),
    ]


def sent_bytes(way: FirstOrder, workers: int, dtype: str) -> float:
    """Bytes that a worker sends in a step, on average: a ring all-reduce."""
    return 2.0 * (workers - 1) / workers * way.trained * BYTES[dtype] / way.every


def step_s(way: FirstOrder, shape: Shape, job: Job, machine: Calibration, link: Link | None = None) -> float:
    """Seconds of a step on job.batch examples a worker."""
    link, crowd = link or machine.link, crowding(job, machine)
    forward = forward_s(shape, job, machine) + shape.leaves * machine.call_s
    compute = (1.0 + BACKWARD) * forward
    update = way.trained * (4 * BYTES[job.dtype] + 2 * STATE_BYTES) / machine.copy_rate
    wait = compute * wait_share(job.workers, machine.spread) / crowd
    network = 0.0
    if job.workers > 1:
        network = 2 * (job.workers - 1) * link.round_s / way.every
        network += sent_bytes(way, job.workers, job.dtype) / link.rate if link.rate else 0.0
    return crowd * (compute + update) + crowd * wait + network


def memory(way: FirstOrder, shape: Shape, job: Job) -> float:
    """Bytes of a worker: weights, gradients and state of what is trained, activations kept for the backward pass."""
    size = BYTES[job.dtype]
    outer = (
        0 if way.every == 1 else shape.parameters * (size + STATE_BYTES // 2)
    )  # the weights of before, and a momentum
    activations = job.batch * job.tokens * shape.hidden * shape.layers * ACTIVATIONS
    return shape.parameters * size + way.trained * (size + STATE_BYTES) + outer + activations
