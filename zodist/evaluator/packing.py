"""Batches without padding: the rows end to end in one sequence, and what rows of one example share only once.

Everything but attention works token by token, so it sees real tokens only, [copies, tokens, hidden].  For the attention
itself the tokens are laid out in a grid of sequences, padded on the right, where a causal mask keeps rows apart: its cost
stays that of the rows, and no mask as large as the square of all tokens is made.  Where an example has several rows, its
options, the tokens that all begin with are one stem, seen by every option; an option sees the stem and itself.

The tokens whose logits enter the loss come last, in whatever order the others are: a model is asked for the last few.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zodist import noise

if TYPE_CHECKING:
    from zodist.tasks import Batch

NAME = "zodist_packed"


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """The tokens of a batch, each once.

    ids, positions: int64 [tokens].  sequence, place: int64 [tokens], where a token stands in the attention's grid, which is
    [sequences, width].  mask: bool [sequences, width, width], what sees what; None: what came before in the sequence.
    kept: how many of the last tokens have logits that enter the loss.  take: int64 [rows, keep], which of these the
    batch's rows mean, any on padding.  origin: int64 [tokens], a token's number among the real tokens of the rows.
    """

    ids: Tensor
    positions: Tensor
    sequence: Tensor
    place: Tensor
    mask: Tensor | None
    kept: int
    take: Tensor
    origin: Tensor
    sequences: int
    width: int

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor, positions: Tensor, keep: int, options: int) -> Packed:
        """The tokens of left-padded rows, int64 [rows, T], of which every ``options`` are those of one example."""
        rows, real = len(ids), mask.bool()
        ids, lengths = ids[real], real.sum(1)
        starts, numbers = lengths.cumsum(0) - lengths, torch.arange(len(ids), device=ids.device)
        row = torch.repeat_interleave(torch.arange(rows, device=ids.device), lengths)
        stems = _stems(ids.split(lengths.tolist()), options).to(ids.device)[row // options]
        within = numbers - starts[row]
        in_stem = within < stems
        # The token that stands for each real one: in a stem, that of the example's first row.
        standing = torch.where(in_stem, starts[row - row % options] + within, numbers)
        wanted = lengths[:, None] + torch.arange(-keep, 0, device=ids.device)
        wanted = torch.where(
            wanted < 0, lengths[:, None] - 1, wanted
        )  # padding: any token that is wanted anyway
        wanted = standing[starts[:, None] + wanted]
        needed, take = wanted.unique(return_inverse=True)
        last = torch.zeros_like(in_stem).index_fill_(0, needed, True)
        own = standing == numbers
        origin = torch.cat([numbers[own & ~last], needed])
        sequence = row // options
        counts = torch.bincount(sequence[own], minlength=rows // options)
        place = own.cumsum(0) - 1 - (counts.cumsum(0) - counts)[sequence]
        seen = None
        if options > 1:
            branch = torch.full((len(counts), int(counts.max())), -2, device=ids.device)
            branch[sequence[own], place[own]] = torch.where(in_stem, -1, row)[own]
            seen = (branch[:, None] == -1) | (branch[:, None] == branch[:, :, None])
            seen = seen.tril()
        return cls(
            ids[origin],
            positions[real][origin],
            sequence[origin],
            place[origin],
            seen,
            len(needed),
            take,
            origin,
            len(counts),
            int(counts.max()),
        )

    def on(self, device: torch.device) -> Packed:
        """The same with its tensors on a device."""
        held = {name: getattr(self, name) for name in self.__slots__}
        held = {name: x.to(device, non_blocking=True) for name, x in held.items() if isinstance(x, Tensor)}
        return replace(self, **held)

    def spread(self, logits: Tensor) -> Tensor:
        """Logits of the last tokens, [kept, entries], as the batch's rows have them: [rows, keep, entries]."""
        return logits[self.take]


def pack_of(batch: Batch, *, always: bool = False) -> Packed | None:
    """The batch without padding; None where it has none, nor a beginning that rows share, unless ``always``."""
    rows = len(batch.input_ids)
    options = 1 if rows % batch.examples else rows // batch.examples
    if options == 1 and not always and bool(batch.attention_mask.all()):
        return None
    return Packed.of(batch.input_ids, batch.attention_mask, batch.position_ids, batch.keep, options)


def _stems(rows: Sequence[Tensor], options: int) -> Tensor:
    """How many tokens all rows of each example begin with: int64 [examples]; 0 for an example of one row."""
    stems = torch.zeros(len(rows) // options, dtype=torch.int64)
    if options > 1:
        for example in range(len(stems)):
            group = [row.tolist() for row in rows[example * options : (example + 1) * options]]
            while all(len(row) > stems[example] for row in group):
                if len({row[stems[example]] for row in group}) > 1:
                    break
                stems[example] += 1
    return stems


class Grid:
    """Where the tokens of a forward stand in the attention's grid, for every copy of every batch in it.

    The copies of one batch are rows of their own, [copies, tokens]; those of several batches, which may have unequal
    numbers of tokens, are one row, end to end.
    """

    def __init__(self, batches: Sequence[Packed], copies: int) -> None:
        """batches: one after the other, each ``copies`` times."""
        self.batches, self.copies = batches, copies
        self.lead = copies if len(batches) == 1 else 1
        device, self.width = batches[0].ids.device, max(b.width for b in batches)
        tokens, slots, at, row = [], [], 0, 0
        for b in batches:
            grid = torch.zeros(b.sequences * self.width, dtype=torch.int64, device=device)
            slot = b.sequence * self.width + b.place
            grid[slot] = torch.arange(len(b.ids), device=device)
            for _ in range(copies):
                tokens.append(grid + at)
                slots.append(slot + row * self.width)
                at, row = at + len(b.ids), row + b.sequences
        self._tokens, self._slots = torch.cat(tokens), torch.cat(slots)
        self.mask: Tensor | None = None
        if any(b.mask is not None for b in batches):
            masks = [_mask(b, self.width).repeat(copies, 1, 1) for b in batches]
            self.mask = torch.cat(masks)[:, None]

    def move_(self, device: torch.device) -> None:
        """Bring what the attention reads to a device."""
        self._tokens, self._slots = (x.to(device, non_blocking=True) for x in (self._tokens, self._slots))
        self.mask = None if self.mask is None else self.mask.to(device, non_blocking=True)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """What each batch has for its tokens, [tokens, ...], for all copies: [lead, tokens of all, ...]."""
        return torch.cat([x for x in parts for _ in range(self.copies)]).unflatten(0, (self.lead, -1))

    def grid(self, x: Tensor) -> Tensor:
        """[lead, heads, tokens, size] as [sequences, heads, width, size]."""
        flat = x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3])
        return flat.index_select(0, self._tokens).view(-1, self.width, *flat.shape[1:]).transpose(1, 2)

    def line(self, x: Tensor) -> Tensor:
        """[sequences, width, heads, size], an attention's result, as [lead, tokens, heads, size]."""
        return x.flatten(0, 1).index_select(0, self._slots).unflatten(0, (self.lead, -1))


def _mask(batch: Packed, width: int) -> Tensor:
    """What sees what in a grid of this width; where there is no token, one sees at least itself."""
    device, more = batch.ids.device, width - batch.width
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    if batch.mask is None:
        return causal.expand(batch.sequences, -1, -1)
    return F.pad(batch.mask, (0, more, 0, more)) | (
        causal & (torch.arange(width, device=device) >= batch.width)
    )


_grid: ContextVar[Grid] = ContextVar("grid of the packed forward")


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, **kwargs: Any
) -> tuple[Tensor, None]:
    """An attention function of transformers: its scaled dot products, sequence by sequence."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    grid = _grid.get()
    query, key, value = (grid.grid(x) for x in (query, key, value))
    return grid.line(sdpa_attention_forward(module, query, key, value, grid.mask, **kwargs)[0]), None


@contextmanager
def packing(model: Any, grid: Grid) -> Iterator[None]:
    """The model's attention is that of the grid."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    held, token = model.config._attn_implementation, _grid.set(grid)
    model.config._attn_implementation = NAME  # without a mask function of this name, models make no mask
    try:
        yield
    finally:
        model.config._attn_implementation = held
        _grid.reset(token)


def longest(model: Any) -> float:
    """The longest row in which every token sees all before it, as the grid's attention assumes."""
    limits = (
        getattr(model.config.get_text_config(), name, None)
        for name in ("sliding_window", "attention_chunk_size")
    )
    return min((limit for limit in limits if isinstance(limit, int)), default=float("inf"))


def obstacle(model: Any) -> str:
    """Why this model's batches cannot be packed, as the end of a sentence; "" if they can.

    Two short rows are run packed and padded.  A model that mixes tokens elsewhere than in an attention of transformers, or
    takes positions from elsewhere than position_ids, gives other logits.
    """
    if model.config._attn_implementation != "sdpa":
        return f"its attention is {model.config._attn_implementation!r}, not 'sdpa'"
    if not {"position_ids", "logits_to_keep"} <= set(inspect.signature(model.forward).parameters):
        return "its forward takes no position_ids"
    words = model.get_input_embeddings().weight
    count = model.get_input_embeddings().num_embeddings  # the weights themselves may be elsewhere
    drawn = noise.permutation(0, count)[np.arange(12) % count]
    ids = torch.from_numpy(drawn).view(2, 6).to(words.device)
    real = torch.ones_like(ids)
    real[0, :2] = 0
    positions = (real.cumsum(1) - 1).clamp(min=0)
    packed, uncached = Packed.of(ids, real, positions, 1, 1), {"use_cache": False}
    with torch.inference_mode():
        want = (
            model(input_ids=ids, attention_mask=real, position_ids=positions, **uncached)
            .logits[:, -1]
            .float()
        )
        try:
            with packing(model, Grid([packed], 1)):
                got = model(
                    input_ids=packed.ids[None], position_ids=packed.positions[None], **uncached
                ).logits
        except Exception as error:  # a model may look at its shapes in any way
            return f"it cannot run rows end to end ({type(error).__name__})"
    got = packed.spread(got[0, -packed.kept :].float())[:, -1]
    off = float((got - want).square().mean().sqrt() / want.std())
    rounding = max(1e-4, 8 * torch.finfo(words.dtype).eps)
    return "" if off <= rounding else f"rows end to end have other logits, by {off:.1g} of their spread"
