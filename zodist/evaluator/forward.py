"""The evaluator: losses at several points near the weights in one forward, weights read-only.

The points of a probe, or of several probes with a batch each, go through the model together: the batch is stacked
point-major and each leaf treats its part with that point's parameters (zodist.evaluator.leaf).  The model's modules keep
their own forward for every other use; the evaluator's takes over only while a frame is active.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zodist.directions import Combination, Law, Param
from zodist.errors import ModelError
from zodist.evaluator.belonging import Stacked
from zodist.evaluator.frame import Frame
from zodist.evaluator.gather import Gather
from zodist.evaluator.leaf import Leaf
from zodist.evaluator.leaves import leaves_of
from zodist.evaluator.norm import Norm
from zodist.evaluator.packing import Packed, longest, pack_of
from zodist.evaluator.patch import Patches
from zodist.evaluator.points import PointSet
from zodist.evaluator.prefix import FrozenPrefix
from zodist.evaluator.rows import bytes_of_token, rows_of, sharing
from zodist.evaluator.token_axis import find_token_axes

if TYPE_CHECKING:
    from zodist.methods import Probe
    from zodist.tasks import Batch

Points = PointSet | Sequence[Combination]


class Evaluator:
    """Evaluates a transformers causal language model at points given as combinations of seeds, until it is closed.

    laws: what a seed means for a parameter, as a function of it or by its id.  parallel: use several threads.
    prefix: frozen lower layers whose results are kept for every example.  packed: leave padding out, in a model that allows
    it (zodist.evaluator.packing.obstacle).  room: bytes that the activations of a forward may take
    (zodist.evaluator.rows.bytes_of_token); points that do not fit together go through several forwards, one point at least
    in each.
    one_by_one: whether every point takes a forward of its own, because of modules of kinds that zodist does not know.
    Raises ModelError, with the parameter's name, where a parameter cannot be perturbed exactly, and where another evaluator
    of the model is still open.
    """

    def __init__(
        self,
        model: Any,
        params: Sequence[Param],
        laws: Callable[[Param], Law | None] | Mapping[int, Law | None],
        *,
        parallel: bool = False,
        prefix: FrozenPrefix | None = None,
        packed: bool = False,
        room: float = math.inf,
    ) -> None:
        self.model, self.prefix = model, prefix
        self._laws = laws if isinstance(laws, Mapping) else {p.id: laws(p) for p in params}
        self.device = params[0].device
        self.frame = Frame(self.device, parallel=parallel)
        self._accepted = set(inspect.signature(model.forward).parameters)
        if "logits_to_keep" not in self._accepted:
            raise ModelError(
                f"{type(model).__name__}.forward takes no logits_to_keep; zodist needs a causal language model "
                "of transformers that computes only the logits that enter the loss"
            )
        self._longest = longest(model) if packed else 0
        leaves, self.one_by_one = leaves_of(self.frame, model, params)
        # Where every point has a forward of its own, one point at a time is all that fits.
        self._tokens = (
            0.0 if self.one_by_one else room / bytes_of_token(model) if room < math.inf else math.inf
        )
        self._owners = {
            leaf.path: ", ".join(sorted(p.name for p in leaf.own.values())) for leaf in leaves if leaf.own
        }
        if packed and self._laws:
            find_token_axes(model, [leaf for leaf in leaves if isinstance(leaf, Norm)])
        self._patches = Patches()
        try:
            for leaf in leaves:
                self._patches.install(leaf.module, self._forward(leaf))
        except ModelError:
            self.close()
            raise

    def _forward(self, leaf: Leaf) -> Callable[..., Any]:
        """What stands in for a module's own forward."""
        frame, path, original = self.frame, leaf.path, leaf.original

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not frame.active:
                return original(*args, **kwargs)
            frame.calls[path] = frame.calls.get(path, 0) + 1
            return leaf(*args, **kwargs)

        return forward

    def close(self) -> None:
        """Give the model's modules their own forward back; further calls do nothing."""
        self._patches.remove()

    def at(self, points: Points) -> PointSet:
        """Some points, laid out once for all forwards that are asked for with this object; none: the weights themselves."""
        return points if isinstance(points, PointSet) else PointSet(points, self._laws)

    def logits(self, points: Points, batch: Batch) -> torch.Tensor:
        """The logits that enter the loss: [points, rows, keep, columns]; no points: one, the weights themselves."""
        at = self.at(points)
        if self.one_by_one and len(at) > 1:
            return torch.cat([self.logits(at.part([n]), batch) for n in range(len(at))])
        found = self._run(at, [batch], self._packs([batch]), max(1, len(at)))
        return torch.stack([logits for _, logits in found])

    def _packs(self, batches: Sequence[Batch]) -> list[Packed | None]:
        """The batches without padding; None for all of them where they are padded."""
        if any(b.input_ids.shape[1] > self._longest for b in batches):
            return [None] * len(batches)
        found = [pack_of(b) for b in batches]
        if len(batches) > 1 and (any(found) or len({b.input_ids.shape for b in batches}) > 1):
            return [pack or pack_of(b, always=True) for b, pack in zip(batches, found, strict=True)]
        return found

    def _run(
        self,
        points: PointSet,
        batches: Sequence[Batch],
        packs: Sequence[Packed | None],
        copies: int,
        amount: torch.Tensor | None = None,
    ) -> Iterator[tuple[Batch, torch.Tensor]]:
        """One forward: each copy of each batch in turn, and its logits, [rows, keep, columns].

        points: of all copies, in this order.  packs: as ``_packs`` gives them.  amount: where every example has a point of
        its own, how much of it in each copy, float32 [copies * examples].
        """
        rows = rows_of(batches, packs, copies, self.device)
        inputs = {
            name: self.frame.know(x) if name == "input_ids" else x.to(self.device, non_blocking=True)
            for name, x in rows.inputs(self.prefix).items()
            if name in self._accepted
        }
        shares = None if amount is None else rows.shares(amount)
        rows.move_(self.device)
        columns = batches[0].columns
        columns = None if columns is None else columns.to(self.device, non_blocking=True)
        skipping = nullcontext() if self.prefix is None else self.prefix.skipping()
        self.frame.start(points, rows.body, rows.head, columns, shares)
        with torch.inference_mode(), self._framed(), skipping, rows.within(self.model):
            logits = self.model(**inputs, logits_to_keep=rows.keep, use_cache=False).logits
            self._check_calls()
        return rows.each(logits)

    @contextmanager
    def _framed(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.frame.active = False

    def ahead(
        self,
        points: PointSet,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        state: Any = None,
    ) -> tuple[torch.Tensor, Any]:
        """Logits after the last token of rows, float32 [points * rows, vocabulary], and what the model keeps of them.

        ids, positions: int64 [points * rows, T] of the tokens that are new, point-major; mask: of all.  state: kept of those
        before; None, as it always is where a model keeps nothing: there are none.  Frozen layers run as well.
        """
        given = {"attention_mask": mask, "position_ids": positions}
        inputs = {name: x.to(self.device) for name, x in given.items() if name in self._accepted}
        keeps = "past_key_values" in self._accepted
        if state is not None:
            inputs["past_key_values"] = state
        belonging = Stacked(max(1, len(points)), len(ids))
        self.frame.start(points, belonging, belonging)
        with torch.inference_mode(), self._framed():
            known = self.frame.know(ids)
            found = self.model(input_ids=known, **inputs, logits_to_keep=1, use_cache=keeps)
            self._check_calls()
        return found.logits[:, -1].float(), found.past_key_values if keeps else None

    def _check_calls(self) -> None:
        """Every trained parameter must have been seen exactly once, or its perturbation is not what was asked for."""
        for path, names in self._owners.items() if len(self.frame.points) else ():
            calls = self.frame.calls.get(path, 0)
            if calls != 1 and not (self.one_by_one and calls):
                raise ModelError(
                    f"{names}: {path} ran {calls} times in one forward, zodist needs exactly one; "
                    "leave it out with model.train"
                )

    def losses(self, points: Points, batches: Iterable[Batch]) -> np.ndarray:
        """Mean loss per example at each point: float64 [points]; no points: one, the weights themselves.

        batches: the pieces of one batch, one forward each.  Per-example losses are float32 or better; sums are float64,
        in the order of examples.
        """
        return self._losses(self.at(points), 1, [list(batches)], None)[0]

    def group_losses(
        self,
        points: Sequence[Sequence[Combination]],
        batches: Sequence[Sequence[Batch]],
        gather: Gather | None = None,
    ) -> np.ndarray:
        """The losses of several probes, all with equally many points: float64 [probes, points].

        batches: the pieces of each probe's own batch, equally many; a forward has one piece of as many probes as fit.  The
        last bits of a loss depend on what shares its forward.  gather: shares out the pieces among workers that all call
        this (zodist.evaluator.Gather), which changes no bit; None: all here, and the device is waited for once.
        """
        every = self.at([at for own in points for at in own])
        return self._losses(every, len(points), batches, gather)

    def _losses(
        self, points: PointSet, probes: int, batches: Sequence[Sequence[Batch]], gather: Gather | None
    ) -> np.ndarray:
        """The same for points that are numbered probe by probe."""
        shape, forwards = (probes, max(1, len(points) // probes)), list(zip(*batches, strict=True))

        def sums(n: int) -> torch.Tensor:
            return torch.cat(list(self._sums(points, forwards[n], shape[1])))

        if gather:
            payloads = gather(
                len(forwards), 8 * shape[0] * shape[1], lambda n: sums(n).cpu().numpy().tobytes()
            )
            found = np.array([np.frombuffer(payload) for payload in payloads])
        else:
            found = torch.stack([sums(n) for n in range(len(forwards))]).cpu().numpy()
        total = np.zeros(shape)
        for own in found:
            total += own.reshape(shape)
        return total / np.array([[sum(piece.examples for piece in own)] for own in batches])

    def _sums(self, points: PointSet, batches: Sequence[Batch], copies: int) -> Iterator[torch.Tensor]:
        """Sums of the losses of a piece of each probe's batch, forward by forward: float64 [points of the forward]."""
        packs = self._packs(batches)
        for some, first, stop in self._forwards(batches, packs, copies):
            at = points.part(range(first, stop)) if len(points) else points
            count = (stop - first) // (some.stop - some.start)
            found = self._run(at, batches[some], packs[some], count)
            yield torch.stack([batch.losses(logits).double().sum() for batch, logits in found])

    def _forwards(
        self, batches: Sequence[Batch], packs: Sequence[Packed | None], copies: int
    ) -> Iterator[tuple[slice, int, int]]:
        """Which batches and which points, from a number to another, share a forward: as many as fit.

        A batch that does not fit with all its points alone takes several forwards.
        """
        for some in sharing(batches, packs, copies, self._tokens):
            first, stop = some.start * copies, some.stop * copies
            alone = some.stop - some.start == 1
            fit = self._fit(batches[some.start], packs[some.start]) if alone else stop - first
            for at in range(first, stop, fit):
                yield some, at, min(at + fit, stop)

    def _fit(self, batch: Batch, pack: Packed | None) -> int:
        """How many copies of a batch one forward may have."""
        return self.points_of(batch.input_ids.numel() if pack is None else len(pack.ids))

    def points_of(self, tokens: int) -> int:
        """How many points one forward may have, each with so many tokens."""
        return 1 << 20 if self._tokens == math.inf else max(1, int(self._tokens / tokens))

    def single_losses(self, probe: Probe, batches: Iterable[Batch]) -> np.ndarray:
        """Losses of a probe whose points belong to one example each: float64 [points + 1], see Probe.

        Every batch must have one row an example, or be packed.
        """
        size, passes = probe.examples, len(probe.points) // probe.examples
        copies = 2 * passes if probe.paired else passes + 1
        every = self.at(probe.points)
        found: list[torch.Tensor] = []
        sizes: list[int] = []
        at = 0
        for batch in batches:
            rows, (pack,) = batch.examples, self._packs([batch])
            if at + rows > size:
                raise ModelError(
                    f"{size} directions for {at + rows} examples: set the method's examples to batch.size"
                )
            if len(batch.input_ids) != rows and pack is None:
                raise ModelError(
                    f"{len(batch.input_ids)} rows for {rows} examples: directions for single examples need one row each, "
                    "or packed batches; use label words of one token, or set batch.packed = true"
                )
            own = [k * size + at + row for k in range(passes) for row in range(rows)]
            shares = torch.ones(rows * copies)
            shares[len(own) :] = -1.0 if probe.paired else 0.0
            fit = self._fit(batch, pack) * rows
            for first in range(0, len(shares), fit):
                part = shares[first : first + fit].to(self.device, non_blocking=True)
                whole = len(part) == len(shares)
                some = own if whole else [own[j % len(own)] for j in range(first, first + len(part))]
                logits = self._run(every.part(some), [batch], [pack], len(part) // rows, part)
                found += [batch.losses(own_logits).double() for _, own_logits in logits]
            sizes.append(rows)
            at += rows
        if at != size:
            raise ModelError(f"{size} directions for {at} examples: set the method's examples to batch.size")
        each = np.split(torch.cat(found).cpu().numpy(), np.cumsum(sizes)[:-1] * copies)
        blocks = [losses.reshape(copies, -1) for losses in each]
        differences = np.concatenate([losses[:passes] - losses[passes:] for losses in blocks], 1)
        means = [losses.reshape(-1) if probe.paired else losses[passes] for losses in blocks]
        mean = float(np.add.accumulate(np.concatenate(means))[-1]) / sum(len(part) for part in means)
        return mean + np.append(differences.reshape(-1), 0.0)
