"""What a forward is given: the rows of a batch, once for every point, padded or packed, and what becomes of its logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zodist.packing import Layout, Packed, packing

if TYPE_CHECKING:
    from zodist.prefix import FrozenPrefix
    from zodist.tasks import Batch


class PaddedRows:
    """One batch as it stands: [copies * rows, T] on dim 0.

    lead: the length of dim 0.  keep: how many of the last positions have logits that enter the loss.  owners: the example of
    each token of a copy, where dim 0 does not say it.
    """

    owners = None

    def __init__(self, batch: Batch, copies: int) -> None:
        self.batch, self.copies = batch, copies
        self.lead, self.keep = copies * len(batch.input_ids), batch.keep

    def inputs(self, prefix: FrozenPrefix | None) -> dict[str, Tensor]:
        """The model's arguments.  prefix: gives the states that enter, in place of ids."""
        b = self.batch
        found = {"attention_mask": b.attention_mask, "position_ids": b.position_ids}
        found |= {"input_ids": b.input_ids} if prefix is None else {"inputs_embeds": prefix.states(b)}
        return {name: x.repeat(self.copies, *(1,) * (x.dim() - 1)) for name, x in found.items()}

    def move_(self, device: torch.device) -> None:
        """Bring what the rest of the forward reads to the model's device."""

    def within(self, model: Any) -> AbstractContextManager[None]:
        """What has to hold while the model runs."""
        return nullcontext()

    def each(self, logits: Tensor) -> Iterator[Tensor]:
        """The logits of each copy: [rows, keep, entries]."""
        return iter(logits.view(self.copies, -1, *logits.shape[1:]))


class PackedRows:
    """Some batches without padding, each copy a sequence of its own: [batches * copies, tokens] on dim 0."""

    def __init__(self, batches: Sequence[Batch], packs: Sequence[Packed], copies: int) -> None:
        self.batches, self.packs, self.layout = batches, packs, Layout(packs, copies)
        self.lead, self.keep = copies * len(packs), max(pack.kept for pack in packs)
        self.owners = packs[0].sequence if len(packs) == 1 else None

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
        self.owners = None if self.owners is None else self.owners.to(device, non_blocking=True)

    def within(self, model: Any) -> AbstractContextManager[None]:
        """What has to hold while the model runs."""
        return packing(model, self.layout)

    def each(self, logits: Tensor) -> Iterator[Tensor]:
        """The logits of each copy of each batch in turn: [rows, keep, entries]."""
        copies = self.layout.copies
        for number, at in enumerate(logits):
            yield self.packs[number // copies].spread(at)


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
