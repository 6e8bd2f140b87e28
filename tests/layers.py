"""A graph without cycles in rows: who uses whom stands higher, and every arrow has a way between the boxes.

`reduce` leaves the arrows that do not follow from others.  `stack` makes the rows: a node's layer is the longest way down
from it, and layers of one node each, of one kind, lie side by side in one row, so that a chain does not make a tower.
`place` finds the columns: of all ways to fill the rows (as far as PAIRS allows), the one with the least sum of squared
shifts of the arrows and of a price for every crossing.  An arrow over several rows has a lane of its own in each row between
(Sugiyama, Tagawa and Toda 1981, IEEE SMC 11), so it never meets a box.  Costs are integers and ties go to the first, so the
answer is always the same.

Places are counted in half columns: boxes stand at 0 to 2 * COLUMNS - 2 and are two wide, lanes lie between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, pairwise, permutations
from typing import NamedTuple

import numpy as np

COLUMNS = 4
CROSSING = 12  # in squared half columns
CENTRED = 16  # a shift of an arrow weighs this much more than one of a box from the middle
PAIRS = 4_000_000  # of ways to fill two rows that are compared; beyond, the dearest ways of the lower one are dropped

Graph = Mapping[str, set[str]]


class Arrow(NamedTuple):
    """From a node to one that it uses; in a row between the two it stands for its lane."""

    user: str
    used: str


Node = str | Arrow
Row = dict[Node, int]


def reach(graph: Graph, start: str) -> set[str]:
    """All that a node uses, by any number of arrows."""
    found: set[str] = set()
    todo = [start]
    while todo:
        new = graph[todo.pop()] - found
        found |= new
        todo += new
    return found


def reduce(graph: Graph) -> dict[str, set[str]]:
    """The fewest arrows with the same reach: those with no other way round."""
    below = {node: reach(graph, node) for node in graph}
    return {
        node: {used for used in uses if not any(used in below[other] for other in uses)}
        for node, uses in graph.items()
    }


def stack(graph: Graph, kind: Callable[[str], str]) -> list[list[str]]:
    """The nodes of each row, from the bottom; within a row as in the graph, which names the used before their users."""
    depth: dict[str, int] = {}
    for node in graph:
        depth[node] = 1 + max((depth[used] for used in graph[node]), default=-1)
    rows: list[list[str]] = []
    chain = False
    for layer in range(1 + max(depth.values())):
        nodes = [node for node in graph if depth[node] == layer]
        if chain and len(nodes) == 1 and len(rows[-1]) < COLUMNS and kind(nodes[0]) == kind(rows[-1][-1]):
            rows[-1] += nodes
            continue
        rows += [nodes[first : first + COLUMNS] for first in range(0, len(nodes), COLUMNS)]
        chain = len(nodes) == 1
    return rows


def trails(rows: list[list[str]], graph: Graph) -> dict[Arrow, list[tuple[int, Node]]]:
    """Where each arrow passes, from its user down: row and node, its own lane in the rows between."""
    row_of = {node: row for row, nodes in enumerate(rows) for node in nodes}
    found: dict[Arrow, list[tuple[int, Node]]] = {}
    for user in graph:
        for used in sorted(graph[user], key=list(graph).index):
            arrow = Arrow(user, used)
            between = [(row, arrow) for row in range(row_of[user] - 1, row_of[used], -1)]
            found[arrow] = [(row_of[user], user), *between, (row_of[used], used)]
    return found


def fill(boxes: list[str], lanes: list[Arrow], chain: bool) -> Iterator[Row]:
    """Every way to stand in a row; a chain stands in its order, from the left or from the right."""
    orders = [tuple(boxes), tuple(reversed(boxes))] if chain else list(permutations(boxes))
    for places in combinations(range(2 * COLUMNS - 1), len(boxes)):
        if any(right - left < 2 for left, right in pairwise(places)):
            continue
        free = [place for place in range(-1, 2 * COLUMNS) if place not in places]
        for order in orders:
            for ways in permutations(free, len(lanes)):
                yield {**dict(zip(order, places, strict=True)), **dict(zip(lanes, ways, strict=True))}


def place(rows: list[list[str]], graph: Graph) -> list[Row]:
    """The place of every box and lane: the best of all, found row by row from the bottom."""
    ways = trails(rows, graph)
    steps = {step for trail in ways.values() for step in pairwise(trail)}
    choices: list[list[Row]] = []
    costs = np.zeros(0)  # of each way to fill the row below, with the best of all rows under it
    back: list[np.ndarray] = []
    for row, nodes in enumerate(rows):
        lanes = [arrow for arrow, trail in ways.items() if (row, arrow) in trail]
        inside = [(user, used) for (at, user), (to, used) in steps if at == to == row]
        links = [(upper, lower) for (at, upper), (to, lower) in steps if at == row != to]
        here = list(fill(nodes, lanes, bool(inside)))
        cost = np.array([weigh(way, nodes, inside) for way in here])
        if row:
            kept = costs.argsort(kind="stable")[: max(1, PAIRS // len(here))]
            both = weigh_links(here, [choices[-1][way] for way in kept], links) + costs[kept]
            back.append(kept[both.argmin(axis=1)])
            cost = cost + both.min(axis=1)
        choices.append(here)
        costs = cost
    best = int(costs.argmin())
    found = [choices[-1][best]]
    for row in range(len(rows) - 1, 0, -1):
        best = int(back[row - 1][best])
        found.append(choices[row - 1][best])
    return found[::-1]


def weigh(row: Row, boxes: list[str], inside: list[tuple[Node, Node]]) -> int:
    """The cost of a row alone: long arrows inside it, lanes that these cross, boxes far from the middle."""
    cost = sum((row[box] - COLUMNS + 1) ** 2 for box in boxes)
    for user, used in inside:
        left, right = sorted((row[user], row[used]))
        cost += CENTRED * (right - left - 2) ** 2
        cost += CENTRED * CROSSING * sum(left < place < right for place in row.values())
    return cost


def weigh_links(upper: list[Row], lower: list[Row], links: list[tuple[Node, Node]]) -> np.ndarray:
    """The cost of the arrows between two rows, [ways to fill the upper, ways to fill the lower]."""
    starts = [np.array([row[node] for row in upper]) for node, _ in links]
    ends = [np.array([row[node] for row in lower]) for _, node in links]
    cost = np.zeros((len(upper), len(lower)), dtype=np.int64)
    for start, end in zip(starts, ends, strict=True):
        cost += (start[:, None] - end) ** 2
    for one, other in combinations(range(len(links)), 2):
        cost += CROSSING * ((starts[one] - starts[other])[:, None] * (ends[one] - ends[other]) < 0)
    return CENTRED * cost
