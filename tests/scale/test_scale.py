"""A sweep's parts: its grid, its lines, its switch, its pictures, and who is said to be first."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from zodist.errors import ConfigError
from zodist.scale.cell import Cell, Link, grid
from zodist.scale.counters import counted
from zodist.scale.crossover import crossover, draw_map, sentence
from zodist.scale.network import Loopback
from zodist.scale.picture import draw_all, figures
from zodist.scale.sweep import Results
from zodist.scale.tap import Port, Switch

FIRST = Cell("zodist", "random-1m", 1, 1, Link())


def cells(**changed: Any) -> list[Cell]:
    asked: dict[str, Any] = {
        "systems": ["zodist", "ddp"],
        "methods": ["mezo"],
        "workers": [1, 2, 4],
        "probes": [8, 64],
        "rates": [1.0, None],
        "delays": [0.0, 10.0],
    }
    return grid(FIRST, **(asked | changed))


def line(
    system: str, step_s: float, mbit: float | None = 10.0, *, workers: int = 8, **more: Any
) -> dict[str, Any]:
    """A measured cell."""
    spread = {"median": step_s, "low": 0.9 * step_s, "high": 1.1 * step_s}
    part = {name: {"median": step_s / 4} for name in ("forward_s", "wait_s", "exchange_s", "update_s")}
    cell = Cell(system, "random-1m", workers, 8 if system == "zodist" else 0, Link(mbit, 10.0))
    traffic = {"wire_sent_bytes": 2e3, "payload_bytes": 1e3, "parameters": 10**6}
    return {**cell.plain(), "step_s": spread, **part, **traffic, **more}


def bound(system: str, bound_s: float, mbit: float) -> dict[str, Any]:
    """A cell that was left out."""
    cell = Cell(system, "random-1m", 8, 0, Link(mbit, 10.0))
    return {**cell.plain(), "skipped": "a step sends 5e8 bytes", "bound_s": bound_s}


def test_a_grid_has_each_measurement_once_and_one_worker_on_no_link() -> None:
    found = cells()
    # Of one worker: zodist with two numbers of probes, ddp.  Of two and four: four links of the same three.
    assert len(found) == len({cell.key for cell in found}) == 3 + 2 * 4 * 3
    assert all(not cell.link.shaped for cell in found if cell.workers == 1)
    assert {cell.probes for cell in found if cell.system == "ddp"} == {0}
    assert [cell.workers for cell in found] == sorted(cell.workers for cell in found)


def test_methods_multiply_zodist_alone() -> None:
    found = cells(methods=["mezo", "fzoo"], workers=[2], rates=[None], delays=[0.0])
    assert sorted(cell.system for cell in found) == ["ddp", "zodist", "zodist", "zodist", "zodist"]


def test_a_system_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="horovod.*choose from zodist"):
        cells(systems=["horovod"])


def test_a_cell_comes_back_from_its_line() -> None:
    cell = cells()[-1]
    kept = json.loads(json.dumps({**cell.plain(), "step_s": {}, "cores": 2}))
    assert Cell.of(kept) == cell and Cell.of(kept).key == cell.key


def test_a_sweep_goes_on_behind_a_torn_line(tmp_path: Path) -> None:
    first, second, third = cells()[:3]
    results = Results(tmp_path)
    results.add(first, {"step_s": 1.0})
    results.add(second, {"error": "a worker died"})
    with results.path.open("a") as file:
        file.write('{"system": "zod')
    again = Results(tmp_path)
    assert again.left([first, second, third]) == [second, third]  # what failed is tried again
    again.add(third, {"step_s": 2.0})
    assert [kept["step_s"] for kept in Results(tmp_path).lines] == [1.0, 2.0]


def test_jobs_that_share_a_folder_keep_each_others_lines(tmp_path: Path) -> None:
    first, second, third = cells()[:3]
    Results(tmp_path).add(first, {"error": "a worker died"})
    one = Results(tmp_path)
    one.add(second, {"step_s": 2.0})
    other = Results(tmp_path)
    other.add(third, {"step_s": 3.0})
    one.add(first, {"step_s": 1.0})
    assert sorted(kept["step_s"] for kept in Results(tmp_path).lines) == [1.0, 2.0, 3.0]


def test_a_cell_that_was_left_out_is_tried_with_a_higher_limit(tmp_path: Path) -> None:
    (cell, *_) = cells()
    Results(tmp_path, 10.0).add(cell, {"skipped": "a step sends 5e8 bytes", "bound_s": 60.0})
    assert Results(tmp_path, 10.0).left([cell]) == []
    assert Results(tmp_path, 61.0).left([cell]) == [cell]


def test_the_kernel_counts_what_a_socket_sends() -> None:
    before = counted("lo")
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as out, server.accept()[0] as back:
            out.sendall(b"x" * 100_000)
            received = 0
            while received < 100_000:
                received += len(back.recv(1 << 16))
    assert counted("lo")[0] - before[0] >= 100_000
    assert counted("lo")[1] - before[1] >= 100_000
    assert counted("no-such-interface") == (0, 0, 0)


def test_loopback_says_what_it_does_not_shape() -> None:
    assert Loopback().shape(Link()) == ""
    assert "10 Mbit/s, 50 ms" in Loopback().shape(Link(10.0, 50.0))


class Hosts:
    """A switch whose ports are pairs of sockets."""

    def __init__(self, count: int, link: Link) -> None:
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count)]
        for pair in self.pairs:
            for end in pair:
                end.setblocking(False)
        self.switch = Switch([Port(inner.fileno()) for _, inner in self.pairs])
        self.switch.link = link

    def send(self, host: int, to: int, text: bytes) -> None:
        """A frame from one host to another, by their numbers as addresses; 255: to all."""
        self.pairs[host][0].send(bytes([to] * 6 + [host] * 6) + text)
        self.switch.take(self.switch.ports[host])

    def received(self, host: int) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.pairs[host][0].recv(2000)[12:])
            except BlockingIOError:
                return found

    def close(self) -> None:
        for pair in self.pairs:
            for end in pair:
                end.close()


@pytest.fixture
def hosts(request: pytest.FixtureRequest):
    made = Hosts(3, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("hosts", [Link()], indirect=True)
def test_a_switch_learns_who_is_where(hosts: Hosts) -> None:
    hosts.send(0, 255, b"who?")
    hosts.send(1, 0, b"me")
    hosts.send(0, 1, b"hello")
    hosts.switch.deliver()
    assert hosts.received(1) == [b"who?", b"hello"] and hosts.received(2) == [b"who?"]
    assert hosts.received(0) == [b"me"]


@pytest.mark.parametrize("hosts", [Link(delay_ms=5.0, jitter_ms=4.0)], indirect=True)
def test_a_late_frame_keeps_its_place(hosts: Hosts) -> None:
    began = time.monotonic()
    for number in range(50):
        hosts.send(0, 255, bytes([number]))
    due = [when for when, *_ in sorted(hosts.switch.queue)]
    assert due[0] >= began + 0.001  # five milliseconds, of which jitter takes four at most
    while hosts.switch.queue:
        time.sleep(hosts.switch.deliver() or 0.0)
    assert hosts.received(1) == hosts.received(2) == [bytes([number]) for number in range(50)]


@pytest.mark.parametrize("hosts", [Link(mbit=1.0)], indirect=True)
def test_a_link_sends_one_frame_after_the_other_and_drops_what_waits_too_long(hosts: Hosts) -> None:
    for _ in range(100):
        hosts.send(0, 255, bytes(1238))  # 1,250 bytes are 10 ms at 1 Mbit/s
    due = sorted(when for when, _, port, _ in hosts.switch.queue if port is hosts.switch.ports[1])
    assert 50 <= len(due) < 100  # half a second of them waits
    assert all(late - early >= 0.00999 for early, late in zip(due, due[1:], strict=False))


@pytest.mark.parametrize("hosts", [Link(loss=0.25)], indirect=True)
def test_about_the_asked_share_of_frames_is_lost(hosts: Hosts) -> None:
    """Four standard deviations of 1,000 binomial draws are 5.5 %."""
    for _ in range(500):
        hosts.send(0, 255, b"x")
    assert len(hosts.switch.queue) == pytest.approx(750, abs=55)


def test_every_plot_is_a_picture_of_the_lines(tmp_path: Path) -> None:
    lines = [
        line(system, step, rate) for system, step in (("zodist", 0.1), ("ddp", 2.0)) for rate in (10.0, None)
    ]
    lines += [line("zodist", 0.1, None, workers=1), bound("ddp", 300.0, 1.0)]
    lines.append({**line("zodist", 1.0), "model": "larger", "parameters": 10**8})
    made = draw_all(lines, tmp_path)
    assert sorted(path.name for path in made) == sorted(
        f"{name}.{ending}" for name in ("step", "efficiency", "bytes") for ending in ("png", "svg")
    )
    for path in made:
        start = path.read_bytes()[:200]
        assert start[:4] == b"\x89PNG" if path.suffix == ".png" else b"<svg" in path.read_bytes(), start


def test_a_bound_is_never_shown_as_measured() -> None:
    assert figures(bound("ddp", 300.0, 1.0)) == (300.0, 300.0, 300.0, False)
    assert figures(line("ddp", 2.0))[3] is True


def test_the_first_at_a_loss_follows_from_steps_and_seconds(tmp_path: Path) -> None:
    lines = [
        line("zodist", 0.1, 1.0),
        bound("ddp", 300.0, 1.0),
        line("zodist", 0.1, None),
        line("ddp", 0.2, None),
    ]
    found = crossover(lines, {"zodist": 320, "ddp": 10})
    poor, fast = found
    assert poor.seconds == {"zodist, mezo, 8 probes": 32.0, "ddp": 3000.0} and poor.winner.startswith(
        "zodist"
    )
    assert fast.winner == "ddp" and fast.margin == pytest.approx(16.0)
    said = sentence(found)
    assert "zodist loses on 1 of 2 links" in said and "no limit and 10 ms" in said
    assert "zodist loses on all 1 links that are settled" in sentence([fast])
    assert [path.suffix for path in draw_map(found, tmp_path)] == [".png", ".svg"]


def test_a_bound_settles_nothing() -> None:
    """The other may be faster than zodist: its bound is lower, its time is not known."""
    (found,) = crossover([line("zodist", 1.0, 1.0), bound("ddp", 2.0, 1.0)], {"zodist": 100, "ddp": 10})
    assert found.winner.startswith("zodist") and found.winner.endswith("?") and found.margin == 0
    assert "no link is settled" in sentence([found])
    (beaten,) = crossover([line("zodist", 1.0, 1.0), bound("ddp", 11.0, 1.0)], {"zodist": 100, "ddp": 10})
    assert beaten.margin == pytest.approx(100 / 110)  # even its bound is later


def test_steps_of_a_system_that_was_not_measured_are_refused() -> None:
    with pytest.raises(ConfigError, match="measured were ddp"):
        crossover([line("ddp", 1.0)], {"zodist": 100})
