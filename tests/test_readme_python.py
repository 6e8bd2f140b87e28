"""The page "From Python", docs/python.md, does what it says, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import blocks, section

BLOCKS = blocks(section("From Python"))


def test_the_page_s_code_runs_and_prints_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the last bits of a loss depend on it
    monkeypatch.chdir(tmp_path)
    assert [language for language, _ in BLOCKS] == ["python", "", "python"]
    names: dict[str, object] = {}
    exec(BLOCKS[0][1], names)
    printed = capsys.readouterr().out.splitlines()
    shown = BLOCKS[1][1].splitlines()
    # Losses are shown to three digits, but processors differ in the last bits of one, and a run carries those on.
    count = re.compile(r"^(\w+) +(\d+) forwards: loss ([\d.]+) -> ([\d.]+)$")
    for line, expected in zip(printed, shown, strict=True):
        here, there = count.fullmatch(line), count.fullmatch(expected)
        assert here and there and here.groups()[:2] == there.groups()[:2]
        assert float(here[3]) == pytest.approx(float(there[3]), abs=0.002)
        assert float(here[4]) < 0.5 * float(here[3]) and float(there[4]) < 0.5 * float(there[3])
    exec(BLOCKS[2][1], names)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["50", "100", "150", "200"]
    torch.set_num_threads(threads)
