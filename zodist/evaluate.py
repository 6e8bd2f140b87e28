"""Evaluation on any number of workers: the same figures, to the bit, as on one.

Examples are cut into fixed pieces, whoever evaluates them; per-example losses and scores travel, every sum is local.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from zodist.forward import Evaluator
from zodist.tasks import Task
from zodist.tasks.score import Score, summary
from zodist.tasks.task import Example

PIECE = 32  # examples per forward: fixed, since the last bits of a score depend on who shares its forward


def evaluate(
    evaluator: Evaluator,
    task: Task,
    examples: Sequence[Example],
    gather: Callable[[int, int, Callable[[int], bytes]], list[bytes]] | None = None,
) -> Score:
    """Loss, and accuracy where there are labels, of the unperturbed weights on some examples (at least one).

    gather(count, size, make): the payloads of ``count`` items of ``size`` bytes, shared out among workers; None: all here.
    """
    width = 1 + len(task.label_words)
    # Examples of equal length together: less padding.  The order is a function of the examples.
    order = np.argsort([len(e.tokens) for e in examples], kind="stable")
    pieces = [order[i : i + PIECE] for i in range(0, len(order), PIECE)]

    def make(item: int) -> bytes:
        piece, own = pieces[item], np.full((PIECE, width), np.nan, "<f4")
        batch = task.batch([examples[int(i)] for i in piece])
        logits = evaluator.logits((), batch)[0]
        own[: len(piece), 0] = batch.losses(logits).cpu().numpy()
        scores = batch.scores(logits)
        if scores is not None:
            own[: len(piece), 1:] = scores.cpu().numpy()
        return own.tobytes()

    size = 4 * PIECE * width
    payloads = gather(len(pieces), size, make) if gather else [make(item) for item in range(len(pieces))]
    results = np.empty((len(examples), width), np.float32)
    for piece, payload in zip(pieces, payloads, strict=True):
        results[piece] = np.frombuffer(payload, "<f4").reshape(PIECE, width)[: len(piece)]
    table = torch.from_numpy(results)
    labels = [e.label for e in examples]
    if width == 1 or any(label is None for label in labels):
        return summary(table[:, 0])
    return summary(table[:, 0], table[:, 1:], torch.tensor(labels))
