"""torchrun --nnodes=MIN:MAX: a machine that joins during a run, with torchrun's own agents, changes no bit of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from runs import PATIENCE_S, Place, finish, make_place, wait_for

from zodist.journal import read_lines

ENDLESS = ("run.steps=1000000", "output.evaluate_every=0", "output.test=false")


def agent(place: Place, number: int, port: int, folder: Path) -> subprocess.Popen[bytes]:
    """One machine's torchrun, as launch/torchrun.sh starts it."""
    conf = f"is_host={int(number == 0)},last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=60"
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=zodist"]
    meeting += [f"--rdzv-conf={conf}", "--local-addr=127.0.0.1", "--nnodes=1:2", "--nproc-per-node=1"]
    command = [sys.executable, "-m", "torch.distributed.run", *meeting, "--max-restarts=3"]
    program = ["-m", "zodist", "train", str(place.config), *ENDLESS, f"run.folder={folder}"]
    own = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with (place.folder / f"agent-{number}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, *program],
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def end(agents: list[subprocess.Popen[bytes]]) -> None:
    """Ask the workers to stop after a step, through the agents; then end what is left of each session."""
    for one in agents:
        one.send_signal(signal.SIGTERM)
    for one in agents:
        with suppress(subprocess.TimeoutExpired):
            one.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.wait()


@pytest.mark.slow
def test_a_machine_that_joins_during_a_run_changes_no_bit(tmp_path):
    place, folder = make_place(tmp_path), tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def rounds() -> int:
        journal = folder / "journal.jsonl"
        return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0

    def sessions() -> list[int]:
        """Workers of each session."""
        return [line["workers"] for line in read_lines(folder / "timings.jsonl") if "started" in line]

    agents = [agent(place, 0, port, folder)]
    try:
        wait_for(lambda: rounds() > 3, PATIENCE_S)
        assert sessions() == [1]
        agents.append(agent(place, 1, port, folder))
        wait_for(lambda: sessions()[-1:] == [2], PATIENCE_S)
        before = rounds()
        wait_for(lambda: rounds() > before + 3, PATIENCE_S)
    except AssertionError as error:
        said = "\n".join(path.read_text()[-3000:] for path in sorted(tmp_path.glob("agent-*.log")))
        raise AssertionError(said) from error
    finally:
        end(agents)
    steps = rounds()
    finish(place, 1, f"run.steps={steps}", *ENDLESS[1:], f"run.folder={tmp_path / 'local'}")
    journal = (folder / "journal.jsonl").read_bytes()
    whole = journal[
        : journal.rindex(b"\n") + 1
    ]  # who is killed while it writes leaves the beginning of a line
    assert whole == (tmp_path / "local" / "journal.jsonl").read_bytes()
