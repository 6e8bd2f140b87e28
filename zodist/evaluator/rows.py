"""What a forward is given, the rows of batches, padded or packed, once for every point, and what becomes of its logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zodist.evaluator.packing import Layout, Packed, packing

if TYPE_CHECKING:
    from zodist.evaluator.prefix import FrozenPrefix
    from zodist.tasks import Batch


class PaddedRows:
    """Batches of equally many rows as they stand, short ones padded further: [batches * copies * rows, T].

    lead: the length of dim 0.  keep: how many of the last positions have logits that enter the loss.  owners: the example of
    each token of a copy, on the CPU, where dim 0 does not say it.  lengths: how many tokens each copy has of those end to
    end, and of those with logits, where dim 0 does not say it.
    """

    owners, lengths = None, ()

    def __init__(self, batches: Sequence[Batch], copies: int) -> None:
        self.batches, self.copies = batches, copies
        self.lead = copies * sum(len(b.input_ids) for b in batches)
        self.keep = max(b.keep for b in batches)
        self._width = max(b.input_ids.shape[1] for b in batches)

    def inputs(self, prefix: FrozenPrefix | None) -> dict[str, Tensor]:
        """The model's arguments.  prefix: gives the states that enter, in place of ids."""
        parts = [self._inputs(b, prefix) for b in self.batches]
        return parts[0] if len(parts) == 1 else {n: torch.cat([part[n] for part in parts]) for n in parts[0]}

    def _inputs(self, b: Batch, prefix: FrozenPrefix | None) -> dict[str, Tensor]:
        found = {"attention_mask": b.attention_mask, "position_ids": b.position_ids}
        found |= {"input_ids": b.input_ids} if prefix is None else {"inputs_embeds": prefix.states(b)}
        missing = self._width - b.input_ids.shape[1]
        if missing:
            found = {n: F.pad(x, (0, 0) * (x.dim() - 2) + (missing, 0)) for n, x in found.items()}
        return {n: x.repeat(self.copies, *(1,) * (x.dim() - 1)) for n, x in found.items()}

    def move_(self, device: torch.device) -> None:
        """Bring what the rest of the forward reads to the model's device."""

    def within(self, model: Any) -> AbstractContextManager[None]:
        """What has to hold while the model runs."""
        return nullcontext()

    def each(self, logits: Tensor) -> Iterator[tuple[Batch, Tensor]]:
        """The logits of each copy of each batch in turn: [rows, keep, entries]."""
        copies = [b for b in self.batches for _ in range(self.copies)]
        for b, at in zip(copies, logits.view(len(copies), -1, *logits.shape[1:]), strict=True):
            yield b, at[:, -b.keep :]


class PackedRows:
    """Batches without padding: the copies of one as [copies, tokens], those of several end to end, [1, tokens].

    What PaddedRows has is here as well.  keep: of several batches, the numbers of the positions, int64.
    """

    keep: int | Tensor

    def __init__(self, batches: Sequence[Batch], packs: Sequence[Packed], copies: int) -> None:
        self.batches, self.packs, self.layout = batches, packs, Layout(packs, copies)
        self.lead, self.owners, self.keep = self.layout.lead, packs[0].sequence, packs[0].kept
        self.lengths: tuple[list[int], ...] = ()
        if len(packs) > 1:
            every = [pack for pack in packs for _ in range(copies)]
            self.lengths = [len(pack.ids) for pack in every], [pack.kept for pack in every]
            ends = torch.tensor(self.lengths[0]).cumsum(0).tolist()
            self.keep = torch.cat([torch.arange(e - p.kept, e) for e, p in zip(ends, every, strict=True)])
            self.owners = None

    def inputs(self, prefix: FrozenPrefix | None) -> dict[str, Tensor]:
        """The model's arguments.  prefix: gives the states that enter, in place of ids."""
        joined = self.layout.joined
        found = {"position_ids": joined([pack.positions for pack in self.packs])}
        if prefix is None:
            return found | {"input_ids": joined([pack.ids for pack in self.packs])}
        states = [
            torch.cat(prefix.rows(batch))[pack.origin]
            for batch, pack in zip(self.batches, self.packs, strict=True)
        ]
        return found | {"inputs_embeds": joined(states)}

    def move_(self, device: torch.device) -> None:
        """Bring what the rest of the forward reads to the model's device."""
        self.packs = [pack.on(device) for pack in self.packs]
        self.layout.move_(device)
        self.keep = self.keep if isinstance(self.keep, int) else self.keep.to(device, non_blocking=True)

    def within(self, model: Any) -> AbstractContextManager[None]:
        """What has to hold while the model runs."""
        return packing(model, self.layout)

    def each(self, logits: Tensor) -> Iterator[tuple[Batch, Tensor]]:
        """The logits of each copy of each batch in turn: [rows, keep, entries]."""
        parts = logits[0].split(self.lengths[1]) if self.lengths else logits
        for number, at in enumerate(parts):
            batch = number // self.layout.copies
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
