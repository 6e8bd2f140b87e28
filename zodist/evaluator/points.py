"""The points of a round, and what their directions are for each parameter: laid out once, and owned here.

A method may change the arrays of its laws in place between rounds; so a set of points is made for a round and goes with it.
Forwards that have some of the points each share the parts that are asked for, whatever batches they are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zodist.directions import Cache, Combination, Laid, Law, Param


class PointSet:
    """Some points near the weights, in order; none: the weights themselves.

    laws: what a seed means for a parameter, by its id; a parameter that has none stays as it is.
    """

    def __init__(self, points: Sequence[Combination], laws: Mapping[int, Law | None]) -> None:
        self.points, self.laws = tuple(points), laws
        self._cache: Cache = {}
        self._laid: dict[int, Laid] = {}
        self._parts: dict[tuple[int, ...], PointSet] = {}

    def __len__(self) -> int:
        return len(self.points)

    def laid(self, param: Param) -> Laid | None:
        """The points' directions for one parameter; None where the weights themselves will do."""
        found = self._laid.get(param.id)
        if found is None:
            law = self.laws.get(param.id)
            if law is None:
                return None
            found = self._laid[param.id] = law.lay(param, self.points, self._cache)
        return None if found.still else found

    def part(self, numbers: Sequence[int]) -> PointSet:
        """Some of the points, by their numbers: the same object whenever the same are asked for."""
        key = tuple(numbers)
        if key == tuple(range(len(self))):
            return self
        if key not in self._parts:
            self._parts[key] = PointSet([self.points[n] for n in key], self.laws)
        return self._parts[key]
