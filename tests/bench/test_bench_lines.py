"""What benchmarks share: the line, the rounds, the targets, the table, the plot and the page."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from zodist.bench.everything import write_report
from zodist.bench.line import Line, amount, by_bench, by_setting, cells, columns, legend
from zodist.bench.picture import save
from zodist.bench.rounds import Rounds
from zodist.bench.screen import tables
from zodist.bench.targets import TARGETS, judge
from zodist.errors import ConfigError, ZodistError

RATE = Line(
    "noise", "gaussian numbers", 3.0, "G/s", "1 thread", more=True, ceiling=6.0, peer=0.5, case="float32"
)
TIME = Line(
    "step",
    "step",
    0.5,
    "s",
    "tiny",
    low=0.4,
    high=0.6,
    rounds=3,
    ceiling=0.25,
    ceiling_is="bare <forwards>",
    peer=2.0,
)
ALONE = Line("memory", "bare forward", 20.0, "MiB", "tiny", note="alone")
LINES = [RATE, TIME, ALONE]
KEYS = {"what", "value", "unit", "ceiling", "ratio", "peer", "speedup"}


def test_ratio_and_speedup_follow_from_the_figures() -> None:
    assert (RATE.ratio, RATE.speedup) == (0.5, 6.0)  # of a rate more is better
    assert (TIME.ratio, TIME.speedup) == (2.0, 4.0)  # of seconds less
    assert (ALONE.ratio, ALONE.speedup) == (None, None)
    assert Line("a", "b", 0.0, "s", ceiling=0.0, peer=1.0).ratio is None


def test_a_line_is_one_json_object_with_the_promised_keys() -> None:
    for line in LINES:
        found = json.loads(json.dumps(line.plain()))
        assert KEYS <= set(found) and found["ratio"] == line.ratio and found["speedup"] == line.speedup
    assert RATE.plain()["what"] == "gaussian numbers, float32"
    assert ALONE.plain()["ceiling"] is None and ALONE.plain()["peer"] is None


def test_people_read_three_digits_and_a_unit_that_fits() -> None:
    shown = [amount(x, "s") for x in (1.2345, 0.012345, 0.000012345)]
    assert shown == ["1.23 s", "12.3 ms", "12.3 µs"]
    assert amount(None) == "" and amount(123456.0, "MiB") == "123,456 MiB"
    assert cells(TIME, 3)[1:] == ("0.5 s", "0.4–0.6")


def test_many_different_notes_become_a_column_and_few_stand_below() -> None:
    many = [Line("methods", f"m{n}", 1.0, "s", note=f"{n} forwards") for n in range(6)]
    assert columns(many)[-1] == "note" and legend(many) == []
    assert "note" not in columns(LINES) and "note: alone (bare forward)" in legend(LINES)


def test_lines_are_grouped_in_the_order_of_first_appearance() -> None:
    assert list(by_bench([TIME, RATE, TIME])) == ["step", "noise"]
    assert {name: len(found) for name, found in by_setting([TIME, RATE, ALONE]).items()} == {
        "tiny": 2,
        "1 thread": 1,
    }


def test_rounds_run_everything_in_turn_and_drop_the_first() -> None:
    calls: list[str] = []

    def run(name: str, seconds: float):
        def once() -> dict[str, float]:
            calls.append(name)
            return {name: seconds * len(calls)}

        return once

    rounds = Rounds([run("a", 1.0), run("b", 1.0)], repeats=3)
    assert calls == ["a", "b"] * 4
    assert rounds.times == {"a": [3.0, 5.0, 7.0], "b": [4.0, 6.0, 8.0]}
    line = rounds.line("x", "w", "a", setting="", ceiling="b", amount=30.0, unit="G/s")
    assert (line.value, line.low, line.high, line.ceiling, line.rounds) == (6.0, 30 / 7, 10.0, 5.0, 3)
    assert line.ratio == line.value / 5.0 and line.more
    assert len(Rounds([run("a", 1.0)], repeats=9, limit_s=0.0).times["a"]) == 2


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="repeats = 0 must be >= 1"):
        Rounds([], repeats=0)


def test_a_target_is_reached_missed_or_not_measured() -> None:
    verdicts = {verdict.target.text: verdict for verdict in judge([RATE])}
    assert len(verdicts) == len(TARGETS)
    found = verdicts["Gaussian numbers against torch.randn"]
    assert (found.figure, found.reached) == (6.0, True)
    assert all(v.reached is None for text, v in verdicts.items() if v is not found)
    slow = Line("noise", "gaussian numbers", 1.0, "G/s", more=True, peer=0.5, case="float32")
    assert judge([slow])[0].reached is False


def test_the_screen_shows_every_line_within_eighty_columns() -> None:
    console = Console(file=io.StringIO(), width=80)
    for found in tables(LINES):
        console.print(found)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("gaussian numbers", "3 G/s", "0.4–0.6", "bare forward", "note: alone", "0.25 s"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_report_is_one_page_that_loads_nothing(tmp_path: Path) -> None:
    write_report(LINES, 1, tmp_path / "report")
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert html.count("<table>") == len(LINES) + 2  # one a setting, targets, machine
    for line in LINES:
        assert f'id="{line.bench}"' in html and line.what in html
    for target in TARGETS:
        assert target.text in html
    assert html.count('src="data:image/png;base64,') == len(LINES)
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)
    assert "bare &lt;forwards&gt;" in html and "<forwards>" not in html
    lines = (tmp_path / "report" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [line.plain() for line in LINES]
    machine = json.loads((tmp_path / "report" / "machine.json").read_text())
    assert {"processor", "cores for this process", "threads", "torch"} <= set(machine)
    for line in LINES:
        assert (tmp_path / "report" / f"{line.bench}.png").read_bytes().startswith(b"\x89PNG")


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ZodistError, match="cannot write the plot .*give another --plot"):
        save(LINES, tmp_path / "file" / "plot.png")
    with pytest.raises(ZodistError, match="cannot write the report .*give another --report"):
        write_report(LINES, 1, tmp_path / "file" / "report")
