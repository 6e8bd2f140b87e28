"""The picture and the table of the rooms are those of today's imports, and the picture can be read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise

import pytest
from house import ORDER
from layers import COLUMNS, Arrow, place, reach, reduce, stack, trails
from rooms import COMMAND, EVERYWHERE, GROUPS, HEAD, PAGE, PICTURE, draw, graph, list_rooms, shorten

SVG = "{http://www.w3.org/2000/svg}"
Point = tuple[float, float]
Frame = tuple[float, float, float, float]  # left, top, right, bottom


@pytest.fixture(scope="module")
def picture() -> ET.Element:
    """The picture as it lies in docs/."""
    return ET.parse(PICTURE).getroot()


def frames(picture: ET.Element) -> dict[str, Frame]:
    found = {}
    for box in picture.iter(f"{SVG}rect"):
        if "id" in box.attrib:
            x, y, width, height = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
            found[box.attrib["id"]] = (x, y, x + width, y + height)
    return found


def arrows(picture: ET.Element) -> dict[Arrow, list[Point]]:
    """Points on the curve of each arrow, from user to used."""
    found = {}
    for path in picture.iter(f"{SVG}path"):
        if "data-user" in path.attrib:
            numbers = [float(text) for text in re.findall(r"-?[\d.]+", path.attrib["d"])]
            points = list(zip(numbers[::2], numbers[1::2], strict=True))
            curves = [points[first : first + 4] for first in range(0, len(points) - 1, 3)]
            arrow = Arrow(path.attrib["data-user"], path.attrib["data-used"])
            found[arrow] = [at(curve, t / 20) for curve in curves for t in range(21)]
    return found


def at(curve: list[Point], t: float) -> Point:
    """The point of a cubic curve at t."""
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    x, y = (sum(w * point[axis] for w, point in zip(weights, curve, strict=True)) for axis in (0, 1))
    return x, y


def apart(frame: Frame, point: Point) -> float:
    """How far a point is outside a box, at most along one axis; negative inside."""
    (left, top, right, bottom), (x, y) = frame, point
    return max(left - x, x - right, top - y, y - bottom)


def test_the_picture_is_that_of_the_imports() -> None:
    assert PICTURE.read_text(encoding="utf-8") == draw(), f"imports or sentences have changed: run {COMMAND}"


def test_the_table_has_the_sentences_of_the_rooms() -> None:
    assert list_rooms() in PAGE.read_text(encoding="utf-8"), f"sentences have changed: run {COMMAND}"


def test_every_room_is_in_the_picture_by_name_and_in_one_group(picture: ET.Element) -> None:
    bold = [text.text for text in picture.iter(f"{SVG}text") if text.get("font-weight") == "bold"]
    assert sorted(map(str, bold)) == sorted(frames(picture)) == sorted(ORDER)
    grouped = [room for rooms in GROUPS.values() for room in rooms]
    assert sorted(grouped) == sorted(set(ORDER) - {EVERYWHERE}), "tests/rooms.py groups the rooms"


def test_by_the_arrows_a_room_reaches_what_it_reaches_by_imports(picture: ET.Element) -> None:
    drawn: dict[str, set[str]] = {room: set() for room in graph()}
    for arrow in arrows(picture):
        drawn[arrow.user].add(arrow.used)
    for room in drawn:
        assert reach(drawn, room) == reach(graph(), room), f"arrows of zodist.{room}: run {COMMAND}"


def test_no_arrow_can_be_left_out(picture: ET.Element) -> None:
    drawn = reduce(graph())
    assert set(arrows(picture)) == {Arrow(user, used) for user in drawn for used in drawn[user]}
    for user, used in arrows(picture):
        without = {**drawn, user: drawn[user] - {used}}
        assert used not in reach(without, user)


def test_an_arrow_leads_down_or_aside_from_its_user_to_the_used_and_through_no_box(
    picture: ET.Element,
) -> None:
    boxes = frames(picture)
    for arrow, points in arrows(picture).items():
        assert abs(apart(boxes[arrow.user], points[0])) < 0.2
        assert abs(apart(boxes[arrow.used], points[-1])) < HEAD
        assert all(lower[1] >= upper[1] - 1e-6 for upper, lower in pairwise(points)), f"{arrow} leads up"
        for room, frame in boxes.items():
            if room not in arrow:
                assert min(apart(frame, point) for point in points) > 6, f"{arrow} meets {room}"


def test_boxes_are_apart_and_inside_the_picture(picture: ET.Element) -> None:
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    boxes = frames(picture).values()
    for one, other in combinations(boxes, 2):
        assert max(one[0] - other[2], other[0] - one[2], one[1] - other[3], other[1] - one[3]) > 12
    assert all(0 < box[0] and box[2] < width and 0 < box[1] and box[3] < height for box in boxes)


def test_two_arrows_share_no_end(picture: ET.Element) -> None:
    ends = [points[end] for points in arrows(picture).values() for end in (0, -1)]
    assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) > HEAD for a, b in combinations(ends, 2))


def test_a_long_sentence_loses_whole_clauses_and_no_list_is_cut() -> None:
    assert shorten("The run on disk.") == "The run on disk"
    assert shorten("The command line.  `python -m zodist` is the same.") == "The command line"
    long = "What it is, where it is not the loss: accuracy, F1, equality with a reference, a reward for what is written."
    assert shorten(long) == "What it is, where it is not the loss"
    assert shorten("Elastic runs: workers come, go, hang and die at any moment, and " + "so on " * 9) == (
        "Elastic runs: workers come, go, hang and die at any moment"
    )


def test_rows_are_the_longest_ways_down_and_a_chain_is_one_row() -> None:
    uses = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"c"}, "e": {"b", "c"}, "f": {"a", "d"}}
    drawn = reduce(uses)
    assert drawn == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"c"}, "e": {"c"}, "f": {"d"}}
    assert stack(drawn, lambda _: "") == [["a", "b", "c"], ["d", "e"], ["f"]]
    assert stack(drawn, lambda node: str(node in "ab")) == [["a", "b"], ["c"], ["d", "e"], ["f"]]
    wide = {"a": set(), **{str(i): {"a"} for i in range(COLUMNS + 1)}}
    assert [len(row) for row in stack(wide, lambda _: "")] == [1, COLUMNS, 1]


def test_an_arrow_over_a_row_has_a_lane_that_no_box_covers() -> None:
    uses = {"a": set(), "b": {"a"}, "x": {"a"}, "c": {"b"}, "y": {"b"}, "d": {"c", "x"}}
    rows = stack(uses, lambda _: "")
    assert rows == [["a"], ["b", "x"], ["c", "y"], ["d"]]
    lane = Arrow("d", "x")
    assert trails(rows, uses)[lane] == [(3, "d"), (2, lane), (1, "x")]
    row = place(rows, uses)[2]
    assert set(row) == {"c", "y", lane}
    assert abs(row["c"] - row["y"]) >= 2 and row[lane] not in (row["c"], row["y"])
