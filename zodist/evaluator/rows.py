"""What one forward is given: batches, padded or packed, once for every point, and what becomes of its logits.

This is the evaluator's one description of a batch.  A task's ``Batch`` comes in; zodist.evaluator.packing gives its tokens
without padding; from here on everything is said by ``Rows``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from zodist.evaluator.belonging import Belonging, EndToEnd, Stacked
from zodist.evaluator.packing import Grid, Packed, packing
from zodist.evaluator.shares import Shares

if TYPE_CHECKING:
    from zodist.evaluator.prefix import FrozenPrefix
    from zodist.tasks import Batch


class Rows(ABC):
    """Some batches, each ``copies`` times, at points that are numbered batch by batch, copy by copy.

    An activation of the model is [lead, T, k], and so are the logits, at the tokens that enter the loss:

        PaddedRows                lead = points * rows of a batch, T the longest row
        PackedRows of one batch   lead = points, T the batch's tokens
        PackedRows of several     lead = 1, T the tokens of all points, end to end

    keep: how many of the last positions have logits that enter the loss, or the numbers of these positions, int64.
    body, head: which point a token belongs to in the model, and among those that have logits.  batches: as they came.
    """

    lead: int
    keep: int | Tensor
    body: Belonging
    head: Belonging
    batches: Sequence[Batch]

    @abstractmethod
    def inputs(self, prefix: FrozenPrefix | None) -> dict[str, Tensor]:
        """The model's arguments.  prefix: gives the states that enter, in place of ids."""

    @abstractmethod
    def shares(self, amount: Tensor) -> tuple[Shares, Shares]:
        """What each example has of a point of its own, below the head and in it.  amount: float32 [copies * examples]."""

    @abstractmethod
    def each(self, logits: Tensor) -> Iterator[tuple[Batch, Tensor]]:
        """The logits of each copy of each batch in turn: [rows, keep, entries]."""

    @abstractmethod
    def move_(self, device: torch.device) -> None:
        """Bring what the rest of the forward reads to the model's device."""

    def within(self, model: Any) -> AbstractContextManager[None]:
        """What has to hold while the model runs."""
        return nullcontext()


def rows_of(
    batches: Sequence[Batch], packs: Sequence[Packed | None], copies: int, device: torch.device
) -> Rows:
    """The rows of a forward on a device.  packs: the batches without padding; None: padded ones."""
    whole = [pack for pack in packs if pack is not None]
    return PackedRows(batches, whole, copies, device) if whole else PaddedRows(batches, copies)


@final
class PaddedRows(Rows):
    """Batches of equally many rows as they stand, short ones padded further on the left."""

    def __init__(self, batches: Sequence[Batch], copies: int) -> None:
        self.batches, self.copies = batches, copies
        self.lead = copies * sum(len(b.input_ids) for b in batches)
        self.keep = max(b.keep for b in batches)
        self.body = self.head = Stacked(copies * len(batches), self.lead)
        self._width = max(b.input_ids.shape[1] for b in batches)

    def inputs(self, prefix: FrozenPrefix | None) -> dict[str, Tensor]:
        parts = [self._inputs(b, prefix) for b in self.batches]
        return parts[0] if len(parts) == 1 else {n: torch.cat([part[n] for part in parts]) for n in parts[0]}

    def _inputs(self, b: Batch, prefix: FrozenPrefix | None) -> dict[str, Tensor]:
        found = {"attention_mask": b.attention_mask, "position_ids": b.position_ids}
        found |= {"input_ids": b.input_ids} if prefix is None else {"inputs_embeds": prefix.states(b)}
        missing = self._width - b.input_ids.shape[1]
        if missing:
            found = {n: F.pad(x, (0, 0) * (x.dim() - 2) + (missing, 0)) for n, x in found.items()}
        return {n: x.repeat(self.copies, *(1,) * (x.dim() - 1)) for n, x in found.items()}

    def shares(self, amount: Tensor) -> tuple[Shares, Shares]:
        """Every row is an example."""
        found = Shares(amount, self.lead, None)
        return found, found

    def move_(self, device: torch.device) -> None:
        """Nothing: each copy's logits are told by their place."""

    def each(self, logits: Tensor) -> Iterator[tuple[Batch, Tensor]]:
        copies = [b for b in self.batches for _ in range(self.copies)]
        for b, at in zip(copies, logits.view(len(copies), -1, *logits.shape[1:]), strict=True):
            yield b, at[:, -b.keep :]


@final
class PackedRows(Rows):
    """Batches without padding; the attention's own grid keeps their rows apart (zodist.evaluator.packing)."""

    def __init__(
        self, batches: Sequence[Batch], packs: Sequence[Packed], copies: int, device: torch.device
    ) -> None:
        self.batches, self.packs, self._grid = batches, packs, Grid(packs, copies)
        self.copies, self.lead, self.keep = copies, self._grid.lead, packs[0].kept
        self._kept: list[int] = []
        if len(packs) == 1:
            self.body = self.head = Stacked(copies, copies)
        else:
            every = [pack for pack in packs for _ in range(copies)]
            lengths, self._kept = [len(pack.ids) for pack in every], [pack.kept for pack in every]
            ends = torch.tensor(lengths).cumsum(0).tolist()
            self.keep = torch.cat([torch.arange(e - p.kept, e) for e, p in zip(ends, every, strict=True)])
            self.body, self.head = EndToEnd(lengths, device), EndToEnd(self._kept, device)

    def inputs(self, prefix: FrozenPrefix | None) -> dict[str, Tensor]:
        joined = self._grid.joined
        found = {"position_ids": joined([pack.positions for pack in self.packs])}
        if prefix is None:
            return found | {"input_ids": joined([pack.ids for pack in self.packs])}
        states = [
            torch.cat(prefix.rows(batch))[pack.origin]
            for batch, pack in zip(self.batches, self.packs, strict=True)
        ]
        return found | {"inputs_embeds": joined(states)}

    def shares(self, amount: Tensor) -> tuple[Shares, Shares]:
        """Of one batch: the examples are its sequences."""
        pack = self.packs[0]
        found = Shares(amount, self.lead, pack.sequence)
        return found, found.last(pack.kept)

    def move_(self, device: torch.device) -> None:
        self.packs = [pack.on(device) for pack in self.packs]
        self._grid.move_(device)
        self.keep = self.keep if isinstance(self.keep, int) else self.keep.to(device, non_blocking=True)

    def within(self, model: Any) -> AbstractContextManager[None]:
        return packing(model, self._grid)

    def each(self, logits: Tensor) -> Iterator[tuple[Batch, Tensor]]:
        parts = logits[0].split(self._kept) if self._kept else logits
        for number, at in enumerate(parts):
            batch = number // self.copies
            yield self.batches[batch], self.packs[batch].spread(at)


def sharing(
    batches: Sequence[Batch], packs: Sequence[Packed | None], copies: int, tokens: float
) -> Iterator[slice]:
    """Which neighbouring batches go through one forward, each in so many copies: one at least, and else what has room.

    tokens: of a forward.  Batches are all packed or all padded; padded ones share a forward if they have equally many rows.
    """
    start = 0
    for stop in range(1, len(batches) + 1):
        if stop < len(batches):
            some = batches[start : stop + 1]
            padded = (
                len(some)
                * max(b.input_ids.numel() // len(b.input_ids) for b in some)
                * len(some[0].input_ids)
            )
            wanted = (
                padded
                if packs[0] is None
                else sum(len(p.ids) for p in packs[start : stop + 1] if p is not None)
            )
            if copies * wanted <= tokens and _alike(some[0], some[-1], packs[0] is None):
                continue
        yield slice(start, stop)
        start = stop


def _alike(a: Batch, b: Batch, padded: bool) -> bool:
    """Whether two batches may share a forward: the loss has the same columns."""
    columns = a.columns is b.columns or (
        a.columns is not None and b.columns is not None and torch.equal(a.columns, b.columns)
    )
    return columns and not (padded and len(a.input_ids) != len(b.input_ids))


def bytes_of_token(model: Any) -> int:
    """About what a token's activations take at their widest, inside one layer: from the model's shapes alone.

    The residual stream, its norm, queries, keys, values and their result: eight times the width; a gated feed-forward
    layer: three times its own width.  The last positions' logits are few and not counted.
    """
    c = model.config.get_text_config()
    inner = next(
        (n for n in (getattr(c, name, None) for name in ("intermediate_size", "ffn_dim")) if n),
        4 * c.hidden_size,
    )
    return model.dtype.itemsize * (8 * c.hidden_size + 3 * inner)
