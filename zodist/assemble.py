"""From a configuration to the parts of a run: model, task, parameters, method, rule, and the journal's header."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

from zodist import __version__, noise, packing, params
from zodist.config import Config
from zodist.errors import ModelError, TaskError
from zodist.forward import Evaluator
from zodist.launcher import start
from zodist.methods import METHODS, Method, Probe
from zodist.model import device_of, load_model
from zodist.params import Param
from zodist.prefix import FrozenPrefix
from zodist.rules import RULES
from zodist.step import Replica
from zodist.tasks import Task, load_task
from zodist.threads import cores

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False, slots=True)
class Parts:
    """What one worker works with.  padding: why batches are padded; "" if they are packed."""

    config: Config
    model: Any
    tokenizer: Any
    task: Task
    params: list[Param]
    method: Method
    fingerprint: str
    parallel: bool
    states: dict[bytes, torch.Tensor]
    padding: str

    def replica(self) -> Replica:
        """The state machine, at step 0 with the base weights."""
        c = self.config
        rule = RULES[c.rule.name](c.rule, self.params, parallel=self.parallel)
        return Replica(
            self.params, self.method, rule, seed=c.run.seed, steps=c.run.steps, data_lanes=c.batch.data_lanes
        )

    def evaluator(self, replica: Replica | None = None) -> Evaluator:
        """The evaluator of the replica's directions on this model; without a replica, of the weights alone."""
        laws = {} if replica is None else replica.directions
        prefix = None
        if self.config.batch.cache_frozen:
            prefix = FrozenPrefix(self.model, self.params, self.states)
        return Evaluator(
            self.model,
            self.params,
            laws,
            parallel=self.parallel,
            prefix=prefix,
            packed=not self.padding,
            room=self.config.batch.activation_mib * 2**20,
        )

    def losses(self, evaluator: Evaluator, probe: Probe, indices) -> Any:
        """Mean losses of a probe's points on some training examples, in pieces of examples_per_forward."""
        # Examples of equal length share a forward: less padding.  Sorting is stable, so the order is the indices' alone.
        chosen = sorted((self.task.train[int(i)] for i in indices), key=lambda e: len(e.tokens))
        piece = self.config.batch.examples_per_forward or len(chosen)
        batches = [self.task.batch(chosen[i : i + piece]) for i in range(0, len(chosen), piece)]
        if probe.examples:
            return evaluator.single_losses(probe, batches)
        return evaluator.losses(probe.points, batches)


@dataclass(frozen=True, eq=False, slots=True)
class Loaded:
    """What a run reads from disk: a base model and a task.

    fingerprint: that of the base weights.  states: what frozen lower layers make of the examples, see FrozenPrefix.
    """

    model: Any
    tokenizer: Any
    task: Task
    fingerprint: str
    states: dict[bytes, torch.Tensor] = field(default_factory=dict)


def load(config: Config) -> Loaded:
    """Read what [model] and [task] name.  Raises ZodistError with one sentence where something is amiss."""
    c = config
    device = device_of(c.model.device, start(cores()).worker)
    model, tokenizer = load_model(c.model.name, DTYPES[c.model.dtype], c.model.attention, device)
    task = load_task(
        c.task.name,
        tokenizer,
        files=c.task.files,
        train=c.task.train,
        validation=c.task.validation,
        test=c.task.test,
        seed=c.task.seed,
        max_tokens=c.task.max_tokens,
    )
    if not task.train:
        raise TaskError(f"task {c.task.name!r} has no training examples; raise task.train")
    return Loaded(model, tokenizer, task, params.fingerprint(model))


def load_parts(
    config: Config, threads: int, loaded: Loaded | None = None, begun: Mapping[str, Any] | None = None
) -> Parts:
    """Everything that a configuration names.

    loaded: its model, with the base weights, and its task, if at hand.  begun: the header of the run's journal, if any.
    """
    c, found = config, loaded or load(config)
    chosen = params.collect(found.model, c.model.train, master=c.model.master == "float32")
    method = METHODS[c.method.name].build(c.method.settings)
    held = found.model, found.tokenizer, found.task, chosen, method, found.fingerprint
    return Parts(c, *held, threads > 1, found.states, _padding(config, found.model, begun))


def _padding(config: Config, model: Any, begun: Mapping[str, Any] | None) -> str:
    """Why batches are padded, "" if they are packed: as the settings say, else as the run was begun, else if it must be."""
    wanted = config.batch.packed
    if wanted is False:
        return "batch.packed = false"
    if wanted == "auto" and begun is not None and not begun.get("packed", False):
        return "the run was begun so"
    why = packing.obstacle(model)
    if why and wanted is True:
        raise ModelError(
            f"batch.packed = true, but {type(model).__name__} cannot do without padding: {why}; set batch.packed = 'auto'"
        )
    return why


def versions(config: Config) -> dict[str, str]:
    """What the last bits of a loss may depend on besides the settings."""
    device = device_of(config.model.device)
    gpu = {"cuda": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "zodist": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        **gpu,
    }


def header(parts: Parts, threads: int, made_by: dict[str, str]) -> dict[str, Any]:
    """The journal's header: all that the sequence of weights depends on, and nothing that may change between sessions.

    Neither the number of workers nor the number of steps is in it: a run may go on with others.
    """
    c = parts.config
    packed = {} if parts.padding else {"packed": True}  # absent from journals of versions that could not
    return {
        "noise": noise.LAW,
        "seed": c.run.seed,
        "threads": threads,
        "model": {
            "dtype": c.model.dtype,
            "train": c.model.train,
            "master": c.model.master,
            "attention": c.model.attention,
            "fingerprint": parts.fingerprint,
        },
        "task": {"name": parts.task.name, "fingerprint": parts.task.fingerprint()},
        **c.identity(),
        **packed,
        "versions": made_by,
    }
