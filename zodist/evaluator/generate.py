"""Writing on from prompts at several points near the weights, all in one forward for each new token.

Rows are stacked point-major like those of a batch.  A model that keeps keys and values is given one token a row at a time;
one that does not is given the whole rows again, which gives the same text.  An answer ends at the first token that ends one,
and the forwards when all have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zodist.evaluator import sampling
from zodist.evaluator.points import PointSet
from zodist.tasks import left_padded

if TYPE_CHECKING:
    from zodist.evaluator.forward import Evaluator, Points


@dataclass(frozen=True, slots=True)
class Manner:
    """How an answer is written.

    most: tokens.  stops: those that end it, besides the model's own.  pad: fills rows on the left.  temperature: 0 takes the
    most likely token.
    """

    most: int
    stops: tuple[int, ...]
    pad: int
    temperature: float = 0.0


@dataclass(frozen=True, eq=False, slots=True)
class Opened:
    """Rows to be written on at one point.

    prompts: tokens of each.  addresses: of what is drawn for each; not looked at without a temperature.
    """

    prompts: Sequence[Sequence[int]]
    addresses: Sequence[sampling.Address] = ()


Texts = list[list[int] | None]


def write(evaluator: Evaluator, points: Points, opened: Sequence[Opened], manner: Manner) -> list[Texts]:
    """The new tokens of every row of every point, to a stop and with it; None where the model's numbers are NaN.

    points: none: the weights themselves, with opened[0].  opened: of each point, with equally many rows; points that share
    one object share what is drawn.  Points that do not fit into a forward together go one after the other.
    """
    tokens = len(opened[0].prompts) * max(len(prompt) for own in opened for prompt in own.prompts)
    fit, at = evaluator.points_of(tokens), evaluator.at(points)
    found: list[Texts] = []
    for first in range(0, len(opened), fit):
        some = range(first, min(first + fit, len(opened)))
        found += _write(evaluator, at.part(some) if len(at) else at, opened[some.start : some.stop], manner)
    return found


def _write(evaluator: Evaluator, points: PointSet, opened: Sequence[Opened], manner: Manner) -> list[Texts]:
    ends = _ends(evaluator.model, manner.stops)
    ids, mask, positions = left_padded([row for own in opened for row in own.prompts], manner.pad)
    rows, state, new = len(ids), None, ids
    written: list[list[int]] = [[] for _ in range(rows)]
    going, sound = [True] * rows, torch.ones(rows, dtype=torch.bool)
    for place in range(manner.most):
        logits, state = evaluator.ahead(points, new, mask, positions, state)
        sound &= ~logits.isnan().any(-1).cpu()
        chosen = _chosen(logits, opened, place, manner.temperature)
        for row, token in enumerate(chosen.tolist()):
            if going[row]:
                written[row].append(token)
                going[row] = token not in ends
        if not any(going):
            break
        mask, after = torch.cat([mask, mask.new_ones(rows, 1)], 1), positions[:, -1:] + 1
        if state is None:  # the model remembers nothing
            ids, positions = torch.cat([ids, chosen[:, None]], 1), torch.cat([positions, after], 1)
            new = ids
        else:
            new, positions = chosen[:, None], after
    texts = [own if fine else None for own, fine in zip(written, sound.tolist(), strict=True)]
    each = rows // len(opened)
    return [texts[n : n + each] for n in range(0, rows, each)]


def _chosen(logits: Tensor, opened: Sequence[Opened], place: int, temperature: float) -> Tensor:
    """The next token of every row, int64 [rows], on the CPU."""
    if not temperature:
        return logits.argmax(-1).cpu()
    drawn: dict[int, Tensor] = {}
    for own in opened:
        if id(own) not in drawn:
            drawn[id(own)] = sampling.gumbel(own.addresses, place, logits.shape[-1]).to(logits.device)
    noise = torch.cat([drawn[id(own)] for own in opened])
    return sampling.draw(logits, noise, temperature).cpu()


def _ends(model: Any, stops: Sequence[int]) -> set[int]:
    """The tokens that end an answer: those asked for, and those that end a text of this model."""
    own = model.generation_config.eos_token_id
    return {*stops, *(own if isinstance(own, list) else [] if own is None else [own])}
