"""Whole cells: worker processes on loopback, and on hosts of their own with shaped links.  Nothing here is about time."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import wait_for

from zodist.plan import REFERENCE, Pace, compare, measured_cells
from zodist.scale.network import RUN, missing

pytestmark = pytest.mark.slow
HEADERS = 66  # Ethernet 14, IP 20, TCP 32 with time stamps
PHASES = ("forward_s", "wait_s", "exchange_s", "update_s", "step_s")
WHY_NOT = missing()
needs_hosts = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def command(out: Path, *options: str) -> list[str]:
    small = ["--batch", "2", "--tokens", "6", "--steps", "4", "--warmup", "2", "--out", str(out)]
    return [sys.executable, "-m", "zodist", "scale", *small, *options]


def run(out: Path, *options: str) -> tuple[list[dict[str, Any]], str]:
    """The lines of a sweep, and what it said."""
    done = subprocess.run(command(out, *options), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]
    assert not [line["error"] for line in lines if "error" in line], done.stderr
    return lines, done.stderr


def hosts_of(process: int) -> list[Path]:
    return list(RUN.glob(f"zodist-scale-{process}-*"))


def test_a_sweep_on_loopback_measures_phases_and_goes_on(tmp_path: Path) -> None:
    first = ("--loopback", "--rates", "none", "--delays", "0", "--workers", "2", "--probes", "4")
    lines, said = run(tmp_path, *first, "--systems", "zodist,diloco-50")
    assert [line["system"] for line in lines] == ["zodist", "diloco-50"] and "2 of 2 cells" in said
    for line in lines:
        assert line["steps"] == 4 and line["beside"] == 2 and line["parameters"] > 900_000
        assert all(0 <= line[name]["low"] <= line[name]["median"] <= line[name]["high"] for name in PHASES)
    zodist, diloco = lines
    assert zodist["payload_bytes"] == 2 * 16  # of four probes a worker has two, for one other worker
    weights = 4 * diloco["parameters"]
    assert diloco["outer"]["payload_bytes"] == weights and diloco["payload_bytes"] == weights / 50
    again, said = run(tmp_path, *first, "--systems", "zodist,diloco-50,naive")
    assert "1 of 3 cells" in said and [line["system"] for line in again] == ["zodist", "diloco-50", "naive"]
    assert again[:2] == lines and again[2]["payload_bytes"] == weights
    known = {"noise": {"rademacher/float32": Pace(pair=1e9, fold=1e9, seed=1e9)}}
    ours, theirs = compare(
        measured_cells(tmp_path), REFERENCE.model_copy(update=known)
    )  # none for the naive way
    assert ours.predicted_s > 0 and len(ours.predicted) == len(ours.measured) == 4
    assert theirs.cell["system"] == "diloco-50" and theirs.predicted_s > 0 and not theirs.measured
    for name in ("step", "efficiency", "bytes"):
        assert (tmp_path / f"{name}.png").exists() and (tmp_path / f"{name}.svg").exists()


def test_workers_of_torchrun_are_taken_as_they_are(tmp_path: Path) -> None:
    launcher = [
        "torch.distributed.run",
        "--standalone",
        "--local-addr",
        "127.0.0.1",
        "--nproc-per-node",
        "2",
        "-m",
    ]
    plain = command(tmp_path, "--rates", "none", "--delays", "0", "--workers", "2", "--systems", "zodist,ddp")
    started = [*plain[:2], *launcher, *plain[2:], "--probes", "2"]
    done = subprocess.run(started, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert [line["system"] for line in lines] == ["zodist", "ddp"]
    assert lines[0]["payload_bytes"] == 16 and lines[1]["payload_bytes"] == 4 * lines[1]["parameters"]
    assert all("of the allocation" in line["hosts"] and line["beside"] == 2 for line in lines)


@needs_hosts
def test_the_interface_counts_little_more_than_the_payload(tmp_path: Path) -> None:
    """On a limited link and on one with a delay: between payload and 1.5 x payload, besides the headers of packets."""
    links = ("--rates", "50", "--delays", "0,5", "--workers", "2", "--probes", "96", "--systems", "zodist")
    lines, _ = run(tmp_path, *links)
    assert [line["delay_ms"] for line in lines] == [0.0, 5.0]
    for line in lines:
        payload, headers = line["payload_bytes"], HEADERS * line["wire_sent_packets"]
        assert (
            payload == 48 * 16 and line["hosts"].startswith("network namespaces") and not line["not_shaped"]
        )
        assert payload <= line["wire_sent_bytes"] <= 1.5 * payload + headers, line
        assert payload <= line["wire_received_bytes"] <= 1.5 * payload + 1.5 * headers, line
    assert lines[1]["link"]["round_s"] > 0.005  # nothing arrives before the delay is over


@needs_hosts
def test_an_interrupted_sweep_leaves_no_host(tmp_path: Path) -> None:
    options = (
        "--rates",
        "10",
        "--delays",
        "0",
        "--workers",
        "2",
        "--systems",
        "zodist",
        "--steps",
        "1000000",
    )
    heeded = functools.partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # a shell's background job ignores it
    process = subprocess.Popen(
        command(tmp_path, *options), stderr=subprocess.PIPE, text=True, preexec_fn=heeded
    )
    try:
        wait_for(lambda: len(hosts_of(process.pid)) == 3, 120)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
        assert process.returncode == 130 and not hosts_of(process.pid)
    finally:
        process.kill()
