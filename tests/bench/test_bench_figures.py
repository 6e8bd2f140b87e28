"""``zodist bench noise``, ``update`` and ``exchange``: every line is there, and its figures belong together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from films import byte_level
from models import tiny
from typer.testing import CliRunner

from zodist.bench.command import bench_app
from zodist.bench.exchange import measure_exchange
from zodist.bench.line import Line
from zodist.bench.noise import measure_noise
from zodist.bench.update import CODED, INDEPENDENT, measure_update
from zodist.bench.variants import Settings
from zodist.errors import ConfigError


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def sound(lines: Sequence[Line]) -> dict[str, Line]:
    """The lines by name, after the checks that hold for all."""
    found = {line.name: line for line in lines}
    assert len(found) == len(lines), "two lines of one name"
    for line in lines:
        assert 0 < line.value < math.inf, line.name
        if line.ceiling is not None:
            assert line.ratio == line.value / line.ceiling and line.ceiling_is, line.name
        assert (line.peer is None) == (not line.peer_is), line.name
        if line.low is not None and line.high is not None:
            assert line.low <= line.value <= line.high, line.name
    return found


def test_noise_has_both_laws_in_both_dtypes_beside_a_copy() -> None:
    found = sound(measure_noise(numbers=4096, threads=1, repeats=2))
    whats = ("numbers", "perturbation", "perturbation, two points")
    names = {
        f"{law} {what}, {dtype}"
        for law in ("gaussian", "rademacher")
        for what in whats
        for dtype in ("float32", "bfloat16")
    }
    assert set(found) == names
    for name, line in found.items():
        assert line.more and line.ceiling and line.rounds == 2
        assert (line.speedup is None) == name.endswith(("points, float32", "points, bfloat16"))


def test_a_tensor_below_one_tile_is_refused() -> None:
    with pytest.raises(ConfigError, match="numbers = 10 must be >= 1024"):
        measure_noise(numbers=10, threads=1, repeats=1)


def test_update_has_every_count_and_says_what_it_did_not_measure(tmp_path: Path) -> None:
    tiny("llama-tied").save_pretrained(tmp_path)
    byte_level().save_pretrained(str(tmp_path))
    settings = Settings(str(tmp_path), "gaussian", 1, 1, "bfloat16", 1, 1, 2, 64)
    found = sound(measure_update(settings, repeats=2))
    assert {f"{n:,} coded" for n in CODED} | {f"{n:,} independent" for n in INDEPENDENT} <= set(found)
    assert {"1 coded, rank one", "1,024 coded, rank one", "1 coded, rank 4", "1,024 coded, rank 4"} <= set(
        found
    )
    assert [name for name, line in found.items() if "not measured" in line.note] == [
        "1,024 independent, extrapolated"
    ]
    one, many = found["1 coded"].peer, found["1,024 coded"].peer
    assert one and many and many == pytest.approx(1024 * one)
    matrix, seeds = found["one matrix, 1,024 coded"], found["one matrix, 1,024 independent"]
    assert matrix.peer == seeds.value and matrix.speedup == seeds.value / matrix.value


def test_the_command_prints_a_json_object_a_line_and_draws(tmp_path: Path) -> None:
    plot = tmp_path / "noise.png"
    command = [
        "noise",
        "--numbers",
        "2048",
        "--threads",
        "1",
        "--repeats",
        "1",
        "--json",
        "--plot",
        str(plot),
    ]
    done = CliRunner().invoke(bench_app, command)
    assert done.exit_code == 0, done.output
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    assert len(lines) == 12
    for line in lines:
        assert {"what", "value", "unit", "ceiling", "ratio", "peer", "speedup"} <= set(line)
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_real_processes_exchange_records() -> None:
    found = sound(measure_exchange([2], blocks=1, rounds=5))
    median, late = found["median of a round, 2 workers"], found["90 % of a round, 2 workers"]
    assert median.value <= late.value and median.rounds == 5 and median.peer and median.ceiling
    count = found["bytes a worker sends in a round, 2 workers"]
    assert (count.value, count.ratio) == (16.0, 1.0)


def test_one_worker_exchanges_nothing() -> None:
    with pytest.raises(ConfigError, match="--workers 1 must be >= 2"):
        measure_exchange([1], blocks=1, rounds=2)
