"""A run's sharded model on one worker: its group, the ranges held here, and what the group knows of the whole together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

import torch

from zodist.config import Config
from zodist.directions import Law, Param
from zodist.errors import SnapshotError
from zodist.evaluator import Gather
from zodist.exchange import Exchange, collect, cores, return_freed_memory, start
from zodist.journal import Part, Tensors, snapshot
from zodist.models import device_of, params
from zodist.shard import exact
from zodist.shard.group import ShardGroup
from zodist.shard.held import Gathered, Held
from zodist.shard.library import cutter
from zodist.shard.lockstep import Lockstep, SteppingExchange
from zodist.shard.mesh import mesh
from zodist.shard.skeleton import skeleton

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@final
class Shards:
    """The model of a configuration, held in parts by a group of workers.

    exchange: that of the run, which now waits until the whole group has no forward left; the run must use this one.
    gather: shares out the pieces of a batch within the group; None: every worker evaluates whole batches.  each: workers
    that evaluate a probe between them.
    """

    def __init__(self, config: Config, exchange: Exchange) -> None:
        """Form the shard groups, on every worker of the run.  Raises ZodistError where they cannot be formed."""
        self._cut = cutter(config.shard.kind)
        begun = start(cores())
        at = mesh(exchange.worker, exchange.workers, begun.beside, config.shard.size)
        self.config, self.device = config, device_of(config.model.device, begun.worker)
        cuda = self.device.type == "cuda"
        self.group = ShardGroup(at, exchange, config.exchange.timeout_s, cuda=cuda)
        self.lockstep = Lockstep(self.group)
        self.exchange = SteppingExchange(exchange, self.lockstep)
        divided = config.shard.share == "batch"
        self.gather: Gather | None = partial(collect, self.lockstep) if divided else None
        self.each = at.size if divided else 1
        self.held: dict[str, Held] = {}

    def load(self, dtype: torch.dtype) -> tuple[Any, PreTrainedTokenizerBase, str]:
        """The model, cut over the group, its tokenizer and fingerprint.  No worker has all weights in memory at any time."""
        c = self.config
        return_freed_memory()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        model, tokenizer, files = skeleton(c.model.name, dtype, c.model.attention)
        for module in model.modules():
            buffers = module._buffers.items()
            module._buffers.update({name: b.to(self.device) for name, b in buffers if b is not None})
        cut = self._cut(model, files, self.group.mesh, dtype, self.device, c.shard)
        self.held, self._engine = {held.name: held for held in cut.held}, cut.engine
        self.lockstep.follow(model)
        return model, tokenizer, self._fingerprint()

    def params(self) -> list[Param]:
        """The held ranges of the parameters that are trained.  Raises ModelError as zodist.models.params.collect does."""
        named = [(name, held.own) for name, held in self.held.items()]
        return [self.held[name].param() for name, _ in params.select(named, self.config.model.train)]

    def check(self, directions: Mapping[int, Law | None]) -> None:
        """Raises ModelError, with the method's name, where its probes need more of the weights than is held here."""
        exact.check(self.config.method.name, directions)

    def gathered(self, own: Sequence[Param]) -> list[Param]:
        """The same parameters as the leaves of the model see them; they are Param in all but type."""
        return cast("list[Param]", [Gathered.of(self.held[p.name], self.device) for p in own])

    def digest(self, own: int) -> int:
        """The digest of the whole weights, from every worker's digest of its ranges."""
        return sum(self.group.numbers(own)) % (1 << 64)

    def _fingerprint(self) -> str:
        """The number that zodist.models.params.fingerprint has for the whole model."""
        names = hashlib.blake2b(digest_size=8)
        for h in self.held.values():
            names.update(params.described(h.name, h.shape, h.own.dtype))
        own = params.digest([h.param() for h in self.held.values()])
        return params.sealed(self.digest(own), names.digest())

    def save(
        self,
        folder: Path,
        step: int,
        state: Callable[[], Mapping[str, torch.Tensor]],
        run: str,
        keep: int,
        rounds: int,
    ) -> Path | None:
        """A snapshot in parts, by the first replica: each of its workers writes the ranges that it holds.

        Returns the path of this worker's part, if it has written one.  Raises SnapshotError, on all of the group, where one
        cannot write.
        """
        if self.group.mesh.replica:
            return None
        tensors = state()
        origins = {name: self.held[name.rpartition("/")[2]].origin for name in tensors if self._is_cut(name)}
        part = Part(self.group.mesh.place, self.group.mesh.size, origins)
        path, why = None, None
        try:
            path = snapshot.write(folder, step, tensors, run, rounds, part)
        except SnapshotError as error:
            why = error
        if any(self.group.numbers(int(path is None))):  # older ones go when all parts of this one are there
            raise why or SnapshotError(
                f"another worker of the shard group could not write its part of step {step}"
            )
        if part.number == 0:
            snapshot.prune(folder, step, keep)
        return path

    def own(self, tensors: Tensors) -> Mapping[str, torch.Tensor]:
        """Of a snapshot's tensors, the ranges that are held here."""
        return _Ranges(tensors, {name: self._range(name) for name in tensors if self._is_cut(name)})

    def _range(self, name: str) -> tuple[int, int]:
        held = self.held[name.rpartition("/")[2]]
        return held.origin, held.origin + held.own.numel()

    def _is_cut(self, name: str) -> bool:
        """Whether a tensor of a snapshot is a weight each: the weights and the rule's buffers."""
        kind, _, rest = name.partition("/")
        return kind in ("weights", "rule") and rest.rpartition("/")[2] in self.held

    def close(self) -> None:
        """Leave the shard group."""
        self.group.close()


class _Ranges(Mapping[str, torch.Tensor]):
    """Tensors of a snapshot, some of them in ranges; read when they are asked for."""

    def __init__(self, tensors: Tensors, ranges: Mapping[str, tuple[int, int]]) -> None:
        self._tensors, self._ranges = tensors, ranges

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self._ranges:
            return self._tensors.range(name, *self._ranges[name])
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
