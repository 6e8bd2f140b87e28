"""Evaluation on any number of workers: the same figures, to the bit, as on one.

Examples are cut into fixed pieces, whoever evaluates them; what was measured of each example travels, every sum is local.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from zodist.evaluator import Evaluator, Gather, Weights
from zodist.tasks import Example, Score, Task

PIECE = 32  # examples per forward: fixed, since the last bits of a score depend on who shares its forward
TOKENS = 8192  # of a forward, padding included; an example may be larger


def evaluate(
    evaluator: Evaluator,
    task: Task,
    examples: Sequence[Example],
    gather: Gather | None = None,
) -> Score:
    """The figures of the unperturbed weights on some examples (at least one), as the task defines them.

    gather(count, size, make): the payloads of ``count`` items of ``size`` bytes, shared out among workers; None: all here.
    """
    width, reader = task.width, Weights(evaluator)
    pieces = cut(task, examples)

    def make(item: int) -> bytes:
        piece, own = pieces[item], np.full((PIECE, width), np.nan, "<f4")
        own[: len(piece)] = task.measure(reader, [examples[i] for i in piece]).cpu().numpy()
        return own.tobytes()

    size = 4 * PIECE * width
    payloads = gather(len(pieces), size, make) if gather else [make(item) for item in range(len(pieces))]
    results = np.empty((len(examples), width), np.float32)
    for piece, payload in zip(pieces, payloads, strict=True):
        results[piece] = np.frombuffer(payload, "<f4").reshape(PIECE, width)[: len(piece)]
    return task.score(torch.from_numpy(results), examples)


def cut(task: Task, examples: Sequence[Example]) -> list[list[int]]:
    """Which examples share a forward: a function of the examples alone; each is in one piece."""
    # Examples of equal length together: less padding.
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].tokens))
    pieces: list[list[int]] = []
    rows = 0
    for i in order:
        own, length = task.rows(examples[i]), len(examples[i].tokens)
        if not pieces or len(pieces[-1]) == PIECE or (rows + own) * length > TOKENS:
            pieces.append([])
            rows = 0
        pieces[-1].append(i)
        rows += own
    return pieces
