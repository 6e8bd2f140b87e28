"""When the loss on the validation split has stopped falling, and after which step it was lowest.

Where a run has another objective, read that for the loss.
A function of a run's evaluations alone, which all workers have; so all stop after the same step, and a run that has stopped
does not go on when it is started again.  The weights of the best step need no file: the journal gives them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def course(lines: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """The validation loss by step, from lines of metrics.jsonl."""
    own = [line for line in lines if line.get("split") == "validation"]
    return {line["step"]: line["loss"] if line.get("aim") is None else line["aim"] for line in own}


def best(losses: Mapping[int, float]) -> int | None:
    """The step after which the loss was lowest, the first of several; None where it was never finite."""
    known = {step: losses[step] for step in sorted(losses) if math.isfinite(losses[step])}
    return min(known, key=lambda step: known[step], default=None)


def enough(losses: Mapping[int, float], step: int, patience: int) -> bool:
    """Whether the last ``patience`` evaluations up to a step brought no lower loss than those before (0: never)."""
    seen = {at: losses[at] for at in sorted(losses) if at <= step}
    if not patience or len(seen) <= patience:
        return False
    return best(seen) not in list(seen)[-patience:]
