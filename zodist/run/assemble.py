"""From a configuration to the parts of a run: model, task, parameters, method, rule, and the journal's header."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from zodist import __version__, noise
from zodist.adapter import attached
from zodist.config import Config
from zodist.directions import Param
from zodist.errors import ModelError, TaskError
from zodist.evaluator import Evaluator, FrozenPrefix, Gather, fitting, packing
from zodist.exchange import cores, start
from zodist.methods import METHODS, StepSeeds
from zodist.models import DTYPES, device_of, load_model, params, quantise_
from zodist.objective import Objective, Reward, judged, objective_of
from zodist.run.evaluate import evaluate
from zodist.step import RULES, Replica, Share, examples
from zodist.tasks import Batch, Example, Score, Task, load_task

if TYPE_CHECKING:
    from zodist.shard import Shards


@dataclass(frozen=True, eq=False, slots=True)
class Parts:
    """What one worker works with.

    padding: why batches are padded; "" if they are packed.  objective: what a point's number is, if not the loss.
    """

    config: Config
    model: Any
    tokenizer: Any
    task: Task
    params: list[Param]
    fingerprint: str
    parallel: bool
    states: dict[bytes, torch.Tensor]
    padding: str
    shards: Shards | None = None
    objective: Objective | None = None

    def replica(self) -> Replica:
        """The state machine, at step 0 with the base weights."""
        made = replica_of(self.config, self.params, parallel=self.parallel)
        if self.shards is not None:
            self.shards.check(made.directions)
        return made

    def digest(self) -> int:
        """That of the whole trained weights, wherever their parts are."""
        own = params.digest(self.params, parallel=self.parallel)
        return own if self.shards is None else self.shards.digest(own)

    def together(self, begun: Mapping[str, Any] | None, workers: int) -> int:
        """How many probes are evaluated in one forward: as the settings say, else as the run was begun, else what fits.

        begun: the header of the run's journal, if any.  workers: 0 if nobody counts them; then 1, since any number may come.
        1 where every example has points of its own, which go through forwards probe by probe, and for objectives other than
        the loss.
        """
        c = self.config
        if c.batch.probes_per_forward != "auto":
            return c.batch.probes_per_forward
        if begun is not None:
            return begun.get("probes_per_forward", 1)
        method = METHODS[c.method.name].build(
            c.method.settings
        )  # another one: asking must not change the run's
        method.begin(self.params)
        probes = next(method.step(StepSeeds(c.run.seed, 0, c.run.steps)))
        if not workers or probes[0].examples or self.objective is not None:
            return 1
        lanes = len(probes) * c.batch.data_lanes
        batch = self.batches(examples(c.run.seed, 0, 0, lanes, c.batch.size, len(self.task.train)))[0]
        room = c.batch.activation_mib * 2**20
        return fitting(self.model, probes, batch, packed=not self.padding, room=room, workers=workers)

    def evaluator(self, replica: Replica | None = None) -> Evaluator:
        """The evaluator of the replica's directions on this model; without a replica, of the weights alone."""
        laws = {} if replica is None else replica.directions
        prefix = None
        if self.config.batch.cache_frozen:
            prefix = FrozenPrefix(self.model, self.params, self.states)
        seen = self.params if self.shards is None else self.shards.gathered(self.params)
        return Evaluator(
            self.model,
            seen,
            laws,
            parallel=self.parallel,
            prefix=prefix,
            packed=not self.padding,
            room=self.config.batch.activation_mib * 2**20,
        )

    def losses(self, evaluator: Evaluator, share: Share) -> np.ndarray:
        """Mean losses of the points of some items, each on training examples of its own: float64 [items, k].

        Points of single examples go probe by probe: their forward is already as large as the examples are many, and the
        noise that all of them share is drawn once for a probe.
        """
        probes = share.probes
        if self.objective is not None:
            pieces = [self.pieces(own) for own in share.examples]
            return self.objective.values(evaluator, probes, pieces, share.places)
        batches = [self.batches(chosen) for chosen in share.examples]
        if probes[0].examples:
            return np.stack([evaluator.single_losses(*each) for each in zip(probes, batches, strict=True)])
        gather = None if self.shards is None else self.shards.gather
        return evaluator.group_losses([probe.points for probe in probes], batches, gather)

    def score(self, evaluator: Any, examples: Sequence[Example], gather: Gather) -> Score:
        """Evaluate the weights as they are; gather: see zodist.run.evaluate."""
        found = evaluate(evaluator, self.task, examples, gather)
        return found if self.objective is None else replace(found, aim=self.objective.aim(found))

    def batches(self, indices: np.ndarray) -> list[Batch]:
        """The rows of some training examples, in pieces of examples_per_forward."""
        return [self.task.batch(piece) for piece in self.pieces(indices)]

    def pieces(self, indices: np.ndarray) -> list[list[Example]]:
        """Some training examples, in pieces of examples_per_forward."""
        # Examples of equal length share a forward: less padding.  Sorting is stable, so the order is the indices' alone.
        chosen = sorted((self.task.train[int(i)] for i in indices), key=lambda e: len(e.tokens))
        piece = self.config.batch.examples_per_forward or len(chosen)
        return [chosen[i : i + piece] for i in range(0, len(chosen), piece)]


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
    return Loaded(model, tokenizer, task_of(c, tokenizer), params.fingerprint(model))


def task_of(config: Config, tokenizer: Any) -> Task:
    """The task that [task] names, its examples drawn and tokenised."""
    c = config.task
    task = load_task(
        c.name,
        tokenizer,
        files=c.files,
        train=c.train,
        validation=c.validation,
        test=c.test,
        seed=c.seed,
        max_tokens=c.max_tokens,
    )
    if not task.train:
        raise TaskError(f"task {c.name!r} has no training examples; raise task.train")
    return task


def replica_of(config: Config, chosen: Sequence[Param], *, parallel: bool = False) -> Replica:
    """The state machine of a configuration over some parameters, at step 0; they hold the base weights."""
    c = config
    return Replica(
        chosen,
        METHODS[c.method.name].build(c.method.settings),
        RULES[c.rule.name](c.rule, chosen, parallel=parallel),
        seed=c.run.seed,
        steps=c.run.steps,
        data_lanes=c.batch.data_lanes,
        clip=c.rule.clip,
        shaping=c.rule.shaping,
    )


def load_parts(
    config: Config,
    threads: int,
    loaded: Loaded | None = None,
    begun: Mapping[str, Any] | None = None,
    shards: Shards | None = None,
    reward: Reward | None = None,
) -> Parts:
    """Everything that a configuration names.

    loaded: its model, with the base weights, and its task, if at hand.  begun: the header of the run's journal, if any.
    shards: who holds the model in parts, if [shard] says so.  reward: the objective's, if it is at hand.
    """
    c = config
    if shards is not None:
        model, tokenizer, fingerprint = shards.load(DTYPES[c.model.dtype])
        found = Loaded(model, tokenizer, task_of(c, tokenizer), fingerprint)
        model, chosen = found.model, shards.params()
    else:
        found = loaded or load(config)
        model = attached(found.model, c.model.adapter, c.adapter, c.run.seed)
        chosen = params.collect(model, c.model.train, master=c.model.master == "float32")
        quantise_(model, chosen, c.model.quantise)
    task = judged(found.task, c, reward)
    held = model, found.tokenizer, task, chosen, found.fingerprint, threads > 1, found.states
    return Parts(c, *held, _padding(config, model, begun), shards, objective_of(c, task))


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
    used = {"peft": config.model.adapter != "", "torchao": config.model.quantise != "none"}
    more = {name: metadata.version(name) for name, on in used.items() if on and find_spec(name)}
    return {
        "zodist": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        **more,
        **gpu,
    }


def header(parts: Parts, threads: int, made_by: dict[str, str], together: int = 1) -> dict[str, Any]:
    """The journal's header: all that the sequence of weights depends on, and nothing that may change between sessions.

    Neither the number of workers nor the number of steps is in it: a run may go on with others.  together: probes in one
    forward (Parts.together).
    """
    c = parts.config
    # Absent from journals of versions that could not.
    stored = {} if c.model.quantise == "none" else {"quantise": c.model.quantise}
    packed = {} if parts.padding else {"packed": True}
    grouped = {} if together == 1 else {"probes_per_forward": together}
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
            **stored,
        },
        "task": {"name": parts.task.name, "fingerprint": parts.task.fingerprint()},
        **c.identity(),
        **packed,
        **grouped,
        "versions": made_by,
    }
