"""The evaluator: losses at several points near the weights in one forward, weights read-only.

The points of a probe, or of several probes with a batch each, go through the model together: the batch is stacked
point-major and each leaf treats its slice with that point's parameters (zodist.evaluator.leaves).  The model's modules keep their own
forward for every other use; the evaluator's takes over only while a frame is active.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from zodist.directions import Combination, Law, Param
from zodist.errors import ModelError
from zodist.evaluator import per_example
from zodist.evaluator.borrowed import foreign, refusal, stand_in, trained
from zodist.evaluator.frame import Frame
from zodist.evaluator.leaves import Forward, head, kind_of, linear
from zodist.evaluator.packing import Packed, longest, pack_of
from zodist.evaluator.prefix import FrozenPrefix
from zodist.evaluator.rows import PackedRows, PaddedRows, bytes_of_token, sharing

if TYPE_CHECKING:
    from zodist.evaluator.sharing import Gather
    from zodist.methods import Probe
    from zodist.tasks import Batch


class Evaluator:
    """Evaluates a transformers causal language model at points given as combinations of seeds.

    laws: what a seed means for a parameter, as a function of it or by its id.  parallel: use numba's threads.
    prefix: frozen lower layers whose results are kept for every example.  packed: leave padding out, in a model that allows
    it (zodist.evaluator.packing.obstacle).  room: bytes that the activations of a forward may take (zodist.evaluator.rows.bytes_of_token);
    points that do not fit together go through several forwards, one point at least in each.
    one_by_one: whether every point takes a forward of its own, because of modules that zodist.evaluator.borrowed runs.
    Raises ModelError, with the parameter's name, where a parameter cannot be perturbed exactly.
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
        self._tokens = room / bytes_of_token(model) if room < math.inf else math.inf
        self._longest = longest(model) if packed else 0
        counts = ("num_attention_heads", "num_key_value_heads")
        self._heads = {getattr(model.config, name, None) for name in counts}
        self.params = {p.name: p for p in params}
        known = laws if isinstance(laws, Mapping) else {p.id: laws(p) for p in params}
        self.device = params[0].device
        self.frame = Frame(known, parallel, self.device)
        self._accepted = set(inspect.signature(model.forward).parameters)
        if "logits_to_keep" not in self._accepted:
            raise ModelError(
                f"{type(model).__name__}.forward takes no logits_to_keep; zodist needs a causal language model "
                "of transformers that computes only the logits that enter the loss"
            )
        self.one_by_one = False
        self._patched: list[nn.Module] = []
        self._owners: dict[str, str] = {}
        self._install(params)

    def _install(self, params: Sequence[Param]) -> None:
        by_storage = {p.storage: p for p in params}
        output = self.model.get_output_embeddings()
        if type(output) is not nn.Linear:
            raise ModelError(f"zodist needs a linear output layer, found {type(output).__name__}")
        whole = foreign(self.model, by_storage)
        if whole and not all(
            isinstance(p, Param) for p in params
        ):  # a shard's are whole while their own module runs
            path, places = next(iter(whole.items()))
            raise ModelError(
                f"{places[0].param.name}: zodist cannot perturb {type(self.model.get_submodule(path)).__name__} in a model "
                "that is cut into shards; leave it out with model.train"
            )
        lent = {id(place.holder) for places in whole.values() for place in places}
        found: set[str] = set()
        for path, module in self.model.named_modules():
            own = {} if id(module) in lent else trained(module, by_storage)
            if path in whole:
                names = {place.param.name for place in whole[path]}
                inner = stand_in(self.frame, module, whole[path])
                alone = refusal(module, ", ".join(names))
            elif own and (kind := kind_of(module)) is not None:
                names = {p.name for p in own.values()}
                inner = kind(self.frame, module, own, path)
                alone = per_example.kind_of(module)(self.frame, module, own, path)
            elif module is output:
                names, inner = set(), linear(self.frame, module, own, path)
                alone = per_example.linear(self.frame, module, own, path)
            else:
                continue
            if module is output:
                inner = head(self.frame, module, own, path, inner)
                alone = per_example.head(self.frame, module, own, path, alone)
            found |= names
            if names:
                self._owners[path] = ", ".join(sorted(names))
            self._patch(module, path, inner, alone)
        if whole:
            self.one_by_one, self._tokens = True, 0.0
        missing = [p.name for p in params if p.name not in found]
        if missing:
            raise ModelError(
                f"{missing[0]} belongs to no module that zodist can perturb; leave it out with model.train"
            )

    def _patch(self, module: nn.Module, path: str, inner: Forward, alone: Forward) -> None:
        frame, original, is_head = self.frame, module.forward, module is self.model.get_output_embeddings()

        def forward(*args, **kwargs):
            if not frame.active:
                return original(*args, **kwargs)
            frame.calls[path] = frame.calls.get(path, 0) + 1
            if frame.shares is not None:
                return alone(*args, **kwargs)
            return inner(*args, **kwargs) if frame.points or is_head else original(*args, **kwargs)

        module.forward = forward
        self._patched.append(module)

    def close(self) -> None:
        """Give the model's modules their own forward back."""
        for module in self._patched:
            del module.forward
        self._patched.clear()

    @contextmanager
    def _framed(self):
        try:
            yield
        finally:
            self.frame.active = False

    def logits(self, points: Sequence[Combination], batch: Batch) -> torch.Tensor:
        """The logits that enter the loss: [points, rows, keep, columns]; no points: one, the weights themselves."""
        if self.one_by_one and len(points) > 1:
            return torch.cat([self.logits([point], batch) for point in points])
        found = self._run(points, [batch], self._packs([batch]), max(1, len(points)))
        return torch.stack([logits for _, logits in found])

    def _packs(self, batches: Sequence[Batch]) -> list[Packed | None]:
        """The batches without padding; None for all of them where they are padded."""
        padded: list[Packed | None] = [None] * len(batches)
        if any(b.input_ids.shape[1] > self._longest for b in batches):
            return padded
        found = [pack_of(b) for b in batches]
        if len(batches) > 1 and (any(found) or len({b.input_ids.shape for b in batches}) > 1):
            found = [pack or pack_of(b, always=True) for b, pack in zip(batches, found, strict=True)]
        # With as many tokens as heads, zodist.evaluator.per_example could not tell the two axes of a head's norm apart.
        return padded if any(pack is not None and len(pack.ids) in self._heads for pack in found) else found

    def _run(
        self,
        points: Sequence[Combination],
        batches: Sequence[Batch],
        packs: Sequence[Packed | None],
        copies: int,
        shares: torch.Tensor | None = None,
    ) -> Iterator[tuple[Batch, torch.Tensor]]:
        """Each copy of each batch in turn, and its logits, [rows, keep, columns].

        points: of all copies, in this order.  packs: as ``_packs`` gives them.
        """
        whole = [pack for pack in packs if pack is not None]
        rows = PackedRows(batches, whole, copies) if whole else PaddedRows(batches, copies)
        inputs = {
            name: self.frame.know(x) if name == "input_ids" else x.to(self.device, non_blocking=True)
            for name, x in rows.inputs(self.prefix).items()
            if name in self._accepted
        }
        rows.move_(self.device)
        columns = batches[0].columns
        columns = None if columns is None else columns.to(self.device, non_blocking=True)
        skipping = nullcontext() if self.prefix is None else self.prefix.skipping()
        self.frame.start(points, rows.lead, columns, shares, rows.owners, rows.lengths)
        with torch.inference_mode(), self._framed(), skipping, rows.within(self.model):
            logits = self.model(**inputs, logits_to_keep=rows.keep, use_cache=False).logits
            if points:
                self._check_calls()
        return rows.each(logits)

    def ahead(
        self,
        points: Sequence[Combination],
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
        self.frame.start(points, len(ids), None)
        with torch.inference_mode(), self._framed():
            known = self.frame.know(ids)
            found = self.model(input_ids=known, **inputs, logits_to_keep=1, use_cache=keeps)
            if points:
                self._check_calls()
        return found.logits[:, -1].float(), found.past_key_values if keeps else None

    def _check_calls(self) -> None:
        for path, names in self._owners.items():
            calls = self.frame.calls.get(path, 0)
            if calls != 1 and not (self.one_by_one and calls):
                raise ModelError(
                    f"{names}: {path} ran {calls} times in one forward, zodist needs exactly one; "
                    "leave it out with model.train"
                )

    def losses(self, points: Sequence[Combination], batches: Iterable[Batch]) -> np.ndarray:
        """Mean loss per example at each point: float64 [points]; no points: one, the weights themselves.

        batches: the pieces of one batch, one forward each.  Per-example losses are float32 or better; sums are float64,
        in the order of examples.
        """
        return self.group_losses([points], [list(batches)])[0]

    def group_losses(
        self,
        points: Sequence[Sequence[Combination]],
        batches: Sequence[Sequence[Batch]],
        gather: Gather | None = None,
    ) -> np.ndarray:
        """The losses of several probes, all with equally many points: float64 [probes, points].

        batches: the pieces of each probe's own batch, equally many; a forward has one piece of as many probes as fit.  The
        last bits of a loss depend on what shares its forward.  gather: shares out the pieces among workers that all call
        this (zodist.exchange.gather.Gather), which changes no bit; None: all here, and the device is waited for once.
        """
        shape, forwards = (len(points), max(1, len(points[0]))), list(zip(*batches, strict=True))

        def make(n: int) -> bytes:
            return self._sums(points, forwards[n]).cpu().numpy().tobytes()

        count, size = len(forwards), 8 * shape[0] * shape[1]
        if gather:
            found = np.array([np.frombuffer(sums) for sums in gather(count, size, make)])
        else:
            found = torch.stack([self._sums(points, pieces) for pieces in forwards]).cpu().numpy()
        total = np.zeros(shape)
        for sums in found:
            total += sums.reshape(shape)
        return total / np.array([[sum(piece.examples for piece in own)] for own in batches])

    def _sums(self, points: Sequence[Sequence[Combination]], pieces: Sequence[Batch]) -> torch.Tensor:
        """Sums of the losses of a piece of each probe's batch: float64 [probes * points], on the device."""
        copies, whole = max(1, len(points[0])), slice(0, len(points))
        every = points[0] if len(points) == 1 else tuple(at for own in points for at in own)
        sums, packs = [], self._packs(pieces)
        for part in sharing(pieces, packs, copies, self._tokens):
            some = every[part.start * copies : part.stop * copies] if part != whole else every
            sums += self._forwards(some, copies, pieces[part], packs[part])
        return torch.cat(sums)

    def _forwards(
        self,
        points: Sequence[Combination],
        copies: int,
        batches: Sequence[Batch],
        packs: Sequence[Packed | None],
    ) -> Iterator[torch.Tensor]:
        """Sums of the losses of some probes, of all their points in turn; one alone takes several forwards if it has to."""
        fit = copies if len(batches) > 1 else self._fit(batches[0], packs[0])
        for first in range(0, copies, fit):
            some = points if fit >= copies else points[first : first + fit]
            found = self._run(some, batches, packs, max(1, len(some) // len(batches)))
            yield torch.stack([batch.losses(logits).double().sum() for batch, logits in found])

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
            own = [probe.points[k * size + at + row] for k in range(passes) for row in range(rows)]
            shares = torch.ones(rows * copies)
            shares[len(own) :] = -1.0 if probe.paired else 0.0
            fit = self._fit(batch, pack) * rows
            for first in range(0, len(shares), fit):
                part = shares[first : first + fit].to(self.device, non_blocking=True)
                some = (
                    own
                    if len(part) == len(shares)
                    else [own[j % len(own)] for j in range(first, first + len(part))]
                )
                logits = self._run(some, [batch], [pack], len(part) // rows, part)
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
