"""The picture of the rooms and their table in docs/architecture.md, from the imports: `.venv/bin/python tests/rooms.py`.

The picture is docs/plots/rooms.svg.  The same source gives the same bytes: places come from tests/layers.py, widths of
words from a short table, and nothing from a clock or from the fonts of a machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple
from xml.sax.saxutils import escape

from house import ORDER, ROOMS, ROOT, known, sentence
from layers import COLUMNS, Arrow, Node, place, reduce, stack, trails

COMMAND = ".venv/bin/python tests/rooms.py"
PICTURE = ROOT / "docs" / "plots" / "rooms.svg"
PAGE = ROOT / "docs" / "architecture.md"

GROUPS = {
    "numbers": ("noise", "kernels", "directions", "methods"),
    "a run": (
        *("step", "config", "journal", "models", "tasks"),
        *("evaluator", "adapter", "objective", "report"),
    ),
    "its workers": ("exchange", "shard", "elastic"),
    "what people do with it": ORDER[ORDER.index("run") :],
}
# Okabe and Ito's colours, which differ to every eye: edges and arrows a shade darker, boxes nearly white.
COLOURS = {
    "numbers": ("#0072b2", "#e4f1f9"),
    "a run": ("#b77d00", "#fdf3dc"),
    "its workers": ("#007d5c", "#e0f4ee"),
    "what people do with it": ("#a8507f", "#f9ebf3"),
}
EVERYWHERE = "errors"  # any room may use it, so its arrows would tell nothing

WIDTH, MARGIN = 1200, 24
BOX = 264
HALF = (WIDTH - 2 * MARGIN - BOX) / (2 * COLUMNS - 2)  # half a column
NAME, TEXT, LINE = 20, 15, 19  # sizes of type, and from line to line
GAP = 52  # between two rows, for the curves
PORT = 26  # between two arrows at one box
HEAD = 11  # length of an arrow's head
LONGEST = 84  # letters of a sentence; longer ones lose their last clauses
FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
# Clauses end here.  A comma alone may stand in a list, which must not be cut.
CLAUSE = re.compile(r"[;:]|,(?= (?:and|each|on|or|which|without)\b)")


Spot = tuple[int, Node]  # a row, and what an arrow meets in it
Step = tuple[Arrow, Spot, Spot]  # an arrow's way from one row to the next
Ports = dict[tuple[Arrow, int], float]


class Box(NamedTuple):
    """A room on the picture: its middle, its top, its height and its lines."""

    x: float
    y: float
    height: float
    lines: list[str]


class Curve(NamedTuple):
    """An arrow on the picture, from its user: a start, then points of cubic curves, three a curve."""

    arrow: Arrow
    points: list[tuple[float, float]]


def graph() -> dict[str, set[str]]:
    """Which rooms each room uses, without `errors`."""
    rooms = [room for room in ORDER if room != EVERYWHERE]
    return {room: known(room) & set(rooms) for room in rooms}


def group_of(room: str) -> str:
    """The group that a room is coloured as."""
    return next(name for name, rooms in GROUPS.items() if room in rooms)


def shorten(text: str) -> str:
    """As many clauses of a sentence as fit into a box, without marks of code and full stop."""
    text = re.split(r"\.(?:\s|$)", text.replace("`", ""))[0]
    ends = [found.start() for found in CLAUSE.finditer(text)]
    fitting = [end for end in [*ends, len(text)] if end <= LONGEST]
    return text[: max(fitting, default=len(text))].rstrip(",;:")


def measure(text: str) -> float:
    """About how wide a text is, in sizes of type: letters of Helvetica, and a little more."""
    narrow, wide = "iljtfrI.,:;'()[] ", "mwMW@%+=>"
    return sum(0.32 if sign in narrow else 0.86 if sign in wide else 0.58 for sign in text)


def wrap(text: str, width: float) -> list[str]:
    """The text in as few lines as fit into a width (in sizes of type), of lengths as equal as they can be."""

    def broken(limit: float) -> list[str]:
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            lines = [*lines[:-1], longer] if measure(longer) <= limit else [*lines, word]
        return [line for line in lines if line]

    lines = broken(width)
    while width > 5 and len(tighter := broken(width - 0.5)) == len(lines):
        lines, width = tighter, width - 0.5
    return lines


def arrange() -> tuple[dict[str, Box], list[Curve], float]:
    """Boxes and arrows where they are drawn, and the height that they take."""
    arrows = reduce(graph())
    rows = stack(arrows, group_of)
    places = place(rows, arrows)
    boxes: dict[str, Box] = {}
    tops, y = [0.0] * len(rows), float(MARGIN)
    heights = [0.0] * len(rows)
    for row in range(len(rows) - 1, -1, -1):
        lines = {room: wrap(shorten(sentence(room)), (BOX - 32) / TEXT) for room in rows[row]}
        tops[row], heights[row] = y, NAME + 22 + LINE * max(map(len, lines.values()))
        for room in rows[row]:
            boxes[room] = Box(across(places[row][room]), y, heights[row], lines[room])
        y += heights[row] + GAP
    ways = trails(rows, arrows)
    steps = [(arrow, *step) for arrow, trail in ways.items() for step in pairwise(trail)]
    out, into = ports(steps, places)
    curves: dict[Arrow, list[tuple[float, float]]] = {arrow: [] for arrow in ways}
    for arrow, (at, upper), (to, lower) in steps:
        if at == to:
            side = 1 if places[at][upper] > places[at][lower] else -1
            middle = tops[at] + heights[at] / 2
            start = (across(places[at][upper]) - side * BOX / 2, middle)
            end = (across(places[at][lower]) + side * BOX / 2, middle)
            curves[arrow] += [start, start, end, end]
            continue
        start = (across(places[at][upper]) + out[arrow, at], tops[at] + heights[at])
        end = (across(places[to][lower]) + into[arrow, to], tops[to])
        bend = (end[1] - start[1]) * 0.55
        if curves[arrow]:  # along the lane, beside the boxes of its row
            last = curves[arrow][-1]
            curves[arrow] += [last, start, start]
        else:
            curves[arrow] += [start]
        tip = HEAD - 1 if lower == arrow.used else 0
        curves[arrow] += [(start[0], start[1] + bend), (end[0], end[1] - tip - bend), (end[0], end[1] - tip)]
    return boxes, [Curve(arrow, points) for arrow, points in curves.items()], y - GAP


def across(place: int) -> float:
    """The x of a place, from half columns."""
    return MARGIN + BOX / 2 + HALF * place


def ports(steps: list[Step], places: list[dict[Node, int]]) -> tuple[Ports, Ports]:
    """How far from the middle of its box each arrow leaves and arrives, so that no two share a point."""
    out = spread(steps, places)
    into = spread([(arrow, lower, upper) for arrow, upper, lower in steps], places)
    for arrow, upper, lower in steps:
        alone = sum(step[1] == upper for step in steps) == 1
        if alone and upper == (upper[0], arrow.user) and place_of(places, upper) == place_of(places, lower):
            out[arrow, upper[0]] = into.get((arrow, lower[0]), 0.0)  # straight down
    return out, into


def spread(steps: list[Step], places: list[dict[Node, int]]) -> Ports:
    """The same for the first end of every step: side by side, in the order of where the arrows come from or go."""
    found: Ports = {}
    for here in {step[1] for step in steps}:
        mine = [step for step in steps if step[1] == here and step[2][0] != here[0]]
        mine.sort(key=lambda step: place_of(places, step[2]))
        for index, step in enumerate(mine):
            found[step[0], here[0]] = PORT * (index - (len(mine) - 1) / 2)
    return found


def place_of(places: list[dict[Node, int]], spot: Spot) -> int:
    """The place of what an arrow meets in a row."""
    return places[spot[0]][spot[1]]


def number(value: float) -> str:
    """A length as it is written: tenths, no trailing zero."""
    return f"{value:.1f}".removesuffix(".0")


def write(x: float, y: float, text: str, size: int, more: str = 'text-anchor="middle"') -> str:
    """A line of text at a place."""
    return f'<text x="{number(x)}" y="{number(y)}" font-size="{size}" {more}>{escape(text)}</text>'


def draw_box(room: str, box: Box) -> Iterator[str]:
    """A room: name and sentence, in the colour of its group."""
    edge, inside = COLOURS[group_of(room)]
    yield (
        f'<rect id="{room}" x="{number(box.x - BOX / 2)}" y="{number(box.y)}" width="{BOX}" '
        f'height="{number(box.height)}" rx="10" fill="{inside}" stroke="{edge}" stroke-width="2"/>'
    )
    top = box.y + (box.height - NAME - LINE * len(box.lines)) / 2
    yield write(box.x, top + NAME * 0.8, room, NAME, 'text-anchor="middle" font-weight="bold"')
    for index, line in enumerate(box.lines):
        yield write(box.x, top + NAME + LINE * (index + 0.85), line, TEXT)


def draw_arrow(curve: Curve) -> Iterator[str]:
    """An arrow in the colour of its user."""
    colour, _ = COLOURS[group_of(curve.arrow.user)]
    start, *rest = [f"{number(x)} {number(y)}" for x, y in curve.points]
    way = f"M{start}C" + " ".join(rest)
    names = f'data-user="{curve.arrow.user}" data-used="{curve.arrow.used}"'
    yield f'<path {names} d="{way}" fill="none" stroke="{colour}" stroke-width="2.2"/>'
    yield draw_head(curve.points, colour)


def draw_head(points: list[tuple[float, float]], colour: str) -> str:
    """The head: downwards, or to the side in a row."""
    (x0, y0), (x, y) = points[0], points[-1]
    half = HEAD / 2
    if y0 == y:
        side = HEAD if x > x0 else -HEAD
        corners = [(x, y), (x - side, y - half), (x - side, y + half)]
    else:
        corners = [(x, y + HEAD - 1), (x - half, y - 1), (x + half, y - 1)]
    return f'<path d="M{" L".join(f"{number(a)} {number(b)}" for a, b in corners)}Z" fill="{colour}"/>'


def draw_foot(y: float) -> Iterator[str]:
    """Under everything: the room that all may use, the groups, and how to read an arrow."""
    yield (
        f'<rect id="{EVERYWHERE}" x="{MARGIN}" y="{number(y)}" width="{WIDTH - 2 * MARGIN}" height="64" rx="10" '
        'fill="#f2f2f2" stroke="#767676" stroke-width="2" stroke-dasharray="7 5"/>'
    )
    yield write(WIDTH / 2, y + 26, EVERYWHERE, NAME, 'text-anchor="middle" font-weight="bold"')
    text = f"{sentence(EVERYWHERE)} Any room may use it; these arrows are left out."
    yield write(WIDTH / 2, y + 26 + LINE * 1.15, text, TEXT)
    x = float(MARGIN)
    for name, (edge, inside) in COLOURS.items():
        yield (
            f'<rect x="{number(x)}" y="{number(y + 86)}" width="26" height="18" rx="5" fill="{inside}" '
            f'stroke="{edge}" stroke-width="2"/>'
        )
        yield write(x + 34, y + 101, name, TEXT + 1, 'text-anchor="start"')
        x += 34 + measure(name) * (TEXT + 1) + 26
    text = "→ uses; arrows that follow from others are left out"
    yield write(WIDTH - MARGIN, y + 101, text, TEXT + 1, 'text-anchor="end"')


def draw() -> str:
    """The picture, as SVG."""
    boxes, curves, height = arrange()
    foot = height + 28
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {number(foot + 122)}" width="{WIDTH}" '
        f'height="{number(foot + 122)}" font-family="{FONT}" fill="#1a1a1a">',
        "<title>The rooms of zodist, and who uses whom</title>",
        f"<!-- Drawn from the imports by {COMMAND} -->",
        '<rect width="100%" height="100%" fill="#fff"/>',
        *(line for curve in curves for line in draw_arrow(curve)),
        *(line for room, box in boxes.items() for line in draw_box(room, box)),
        *draw_foot(foot),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def list_rooms() -> str:
    """The table of the page: every room, and the first sentence of its source."""
    lines = ["| room | what it holds |", "|---|---|"]
    for room in ORDER:
        where = f"../zodist/{room}" if room in ROOMS else f"../zodist/{room}.py"
        text = re.sub(r"`+", "`", sentence(room)).replace("|", "\\|")
        lines.append(f"| [`{room}`]({where}) | {text} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the picture, and the table where the page has it."""
    PICTURE.write_text(draw(), encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    table = re.compile(r"^\| room \|.*\n(?:\|.*\n)+", re.MULTILINE)
    PAGE.write_text(table.sub(lambda _: list_rooms(), page, count=1), encoding="utf-8")


if __name__ == "__main__":
    main()
