"""Evaluation on any number of workers: the same figures, to the bit, as on one.

Examples are cut into fixed pieces, whoever evaluates them; per-example losses and scores travel, every sum is local.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from zodist.exchange import Exchange, LocalExchange
from zodist.forward import Evaluator
from zodist.tasks import Task
from zodist.tasks.score import Score, summary
from zodist.tasks.task import Example

PIECE = 32  # examples per forward: fixed, since the last bits of a score depend on who shares its forward


def evaluate(
    evaluator: Evaluator, task: Task, examples: Sequence[Example], exchange: Exchange | None = None
) -> Score:
    """Loss, and accuracy where there are labels, of the unperturbed weights on some examples (at least one)."""
    exchange = exchange or LocalExchange()
    width = 1 + len(task.label_words)
    # Examples of equal length together: less padding.  The order is a function of the examples.
    order = np.argsort([len(e.tokens) for e in examples], kind="stable")
    pieces = [order[i : i + PIECE] for i in range(0, len(order), PIECE)]
    slots = -(-len(pieces) // exchange.workers)
    own = np.full((slots, PIECE, width), np.nan, np.float32)
    for slot, piece in enumerate(pieces[exchange.worker :: exchange.workers]):
        batch = task.batch([examples[int(i)] for i in piece])
        logits = evaluator.logits((), batch)[0]
        own[slot, : len(piece), 0] = batch.losses(logits).numpy()
        scores = batch.scores(logits)
        if scores is not None:
            own[slot, : len(piece), 1:] = scores.numpy()
    shares = exchange.all_gather(own.astype("<f4").tobytes())
    results = np.empty((len(examples), width), np.float32)
    for worker, share in enumerate(shares):
        theirs = np.frombuffer(share, "<f4").reshape(slots, PIECE, width)
        for slot, piece in enumerate(pieces[worker :: exchange.workers]):
            results[piece] = theirs[slot, : len(piece)]
    table = torch.from_numpy(results)
    labels = [e.label for e in examples]
    if width == 1 or any(label is None for label in labels):
        return summary(table[:, 0])
    return summary(table[:, 0], table[:, 1:], torch.tensor(labels))
