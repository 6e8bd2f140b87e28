"""Which methods are exact where every worker holds a range of each parameter only.

A probe is evaluated on gathered weights, so its direction may depend on seeds, losses and shapes, but not on numbers that a
method keeps for each weight: of these a worker has its range.  An update is made on the range, so it may have such numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

from zodist.directions import Law
from zodist.errors import ModelError


def check(method: str, directions: Mapping[int, Law | None]) -> None:
    """Raises ModelError, with the method's name, unless its probes' directions are exact on gathered weights."""
    if not all(law is None or law.shape_alone for law in directions.values()):
        raise ModelError(
            f"method.name = {method!r} perturbs by numbers that it keeps for every weight, and with [shard] a worker has "
            "a part of them; choose another method, or set shard.kind = 'none'"
        )
