"""MPI, by mpirun and real processes: the bits of a local run, and what happens when a process dies or is told to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from runs import Place, finish, make_place, wait_for

mpirun = Path(sys.prefix) / "bin" / "mpirun"
pytest.importorskip("mpi4py", reason="no mpi4py; pip install 'zodist[mpi]'")
if not mpirun.exists():
    pytest.skip("no mpirun of the mpich package; pip install 'zodist[mpi]'", allow_module_level=True)

# What an exchange does that has no run around it: every process writes what it saw into a file of its own.
TALK = """
import os, signal, sys, time
from pathlib import Path
from zodist.exchange import stopping
from zodist.errors import ExchangeError
from zodist.exchange.gather import open_exchange, share
stopping.listen()
exchange = open_exchange("mpi", float(sys.argv[2]))
me, seen = exchange.worker, []
def say(*words): print(*words, file=file, flush=True)
file = (Path(sys.argv[1]) / str(me)).open("w")
for size in (16, 0, 65, 100_000, 5):
    found = exchange.all_gather(bytes([me + 1] * size))
    assert found == [bytes([w + 1] * size) for w in range(exchange.workers)]
say(share(exchange, b"config" if me == 0 else None), exchange.sent, exchange.received, exchange.stopping)
if me == exchange.workers - 1:
    os.kill(os.getpid(), signal.SIGUSR1)
exchange.all_gather(b"asked")
say(exchange.stopping)
if sys.argv[3:] and me == 1:
    time.sleep(30)
try:
    exchange.all_gather(b"late")
    exchange.close()
    say("closed")
except ExchangeError as error:
    say(error)
    sys.exit(69)
"""


def start(workers: int, *arguments: object) -> subprocess.Popen[str]:
    """mpirun of this environment's Python."""
    alone = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "MPI", "OMPI"))}
    command = [mpirun, "-n", workers, sys.executable, *arguments]
    return subprocess.Popen(
        list(map(str, command)), env=alone, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def train(place: Place, workers: int, folder: Path, *settings: str) -> subprocess.Popen[str]:
    """`mpirun -n WORKERS zodist train`; who is started alone is told to use MPI all the same."""
    own = ("exchange.kind=mpi",) if workers == 1 else ()
    given = (*settings, *own, f"run.folder={folder}", "--quiet", "--json")
    return start(workers, "-m", "zodist", "train", place.config, *given)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The run of one worker, without MPI."""
    made = make_place(tmp_path_factory.mktemp("reference"))
    finish(made)
    return made


def test_payloads_arrive_in_worker_order_and_one_signal_is_known_to_all(tmp_path: Path):
    (tmp_path / "talk.py").write_text(TALK)
    done = start(3, tmp_path / "talk.py", tmp_path, 60)
    assert done.wait(120) == 0, done.communicate()
    sent = 2 * (16 + 65 + 100_000 + 5 + 64)  # what is shared takes 64 bytes at least
    for worker in range(3):
        assert (tmp_path / str(worker)).read_text() == f"b'config' {sent} {sent} False\nTrue\nclosed\n"


def test_a_worker_that_hangs_is_an_error_after_the_timeout_and_mpi_ends_it(tmp_path: Path):
    (tmp_path / "talk.py").write_text(TALK)
    done = start(2, tmp_path / "talk.py", tmp_path, 5, "hang")
    assert done.wait(120) == 69, done.communicate()
    words = (tmp_path / "0").read_text()
    assert words.endswith("look there or raise exchange.timeout_s\n")
    assert "worker 0 had no answer from the others for 5 s; one of the 2 is stopped" in words
    assert "late" not in (tmp_path / "1").read_text() and "closed" not in (tmp_path / "1").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_ranks_give_the_bits_of_a_local_run(reference: Place, tmp_path: Path, workers: int):
    done = train(reference, workers, tmp_path / "run")
    out, err = done.communicate(timeout=240)
    assert done.returncode == 0, err
    figures = json.loads(out)  # worker 0 alone prints
    assert (figures["workers"], figures["digest"]) == (workers, reference.digest())
    for name in ("journal.jsonl", "metrics.jsonl", "snapshot-00000020.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == reference.file(name), name


@pytest.mark.slow
def test_a_signal_stops_after_a_step_and_a_killed_job_resumes_to_the_same_bits(
    reference: Place, tmp_path: Path
):
    """SIGUSR1 to mpirun; then SIGKILL to one process, which MPI answers by ending all; then a local run to the end."""
    folder, endless = tmp_path / "run", ("run.steps=1000000", "output.evaluate_every=0", "output.test=false")
    journal = folder / "journal.jsonl"

    def rounds() -> int:
        return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0

    begun = train(reference, 2, folder, *endless)
    wait_for(lambda: rounds() > 3, 240)
    begun.send_signal(signal.SIGUSR1)
    _, err = begun.communicate(timeout=120)
    stopped = rounds()
    assert begun.returncode == 75, err
    assert f"stopped after {stopped} of 1000000 steps (SIGUSR1); the same command goes on there" in err
    assert (folder / f"snapshot-{stopped:08d}.safetensors").exists()

    begun = train(reference, 2, folder, *endless)
    wait_for(lambda: rounds() > stopped + 3, 240)
    python = [
        child for child in psutil.Process(begun.pid).children(recursive=True) if "zodist" in child.cmdline()
    ]
    python[-1].kill()
    begun.communicate(timeout=120)
    assert begun.returncode == 9  # the signal's number

    steps = rounds()
    ends = (f"run.steps={steps}", *endless[1:])
    finish(reference, 1, *ends, f"run.folder={folder}")
    finish(reference, 1, *ends, f"run.folder={tmp_path / 'again'}")
    for name in ("journal.jsonl", f"snapshot-{steps:08d}.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
