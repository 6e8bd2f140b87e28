"""The files in slurm/ on a real cluster: jobs that are asked to stop, put back and resumed have the bits of a local run.

The runs have no end, so that no machine is too fast for a signal to come in time; the job is cancelled once it has gone
on, and a local run of as many steps must have written the same journal and the same last snapshot.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import PATIENCE_S, Place, finish, make_place, wait_for
from slurm_cluster import Cluster, cluster, missing

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ENDLESS = ("run.steps=1000000", "output.evaluate_every=0", "output.test=false")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A tiny run, in a folder that looks like a checkout with its environment."""
    made = make_place(tmp_path_factory.mktemp("slurm"))
    for name in ("launch", "slurm"):
        (made.folder / name).symlink_to(ROOT / name)
    (made.folder / ".venv").symlink_to(sys.prefix)
    return made


@pytest.fixture(scope="module")
def lab() -> Iterator[Cluster]:
    """Four nodes."""
    if why := missing():
        pytest.skip(why)
    with cluster(4) as made:
        yield made


def submit(lab: Cluster, place: Place, script: str, *settings: str, array: str = "") -> str:
    """The number of a job of two workers on two nodes; of an elastic one, the port is free now."""
    with socket.socket() as free:
        free.bind(("", 0))
        lab.environment["PORT"] = str(free.getsockname()[1])
    options = ["--nodes=2", "--cpus-per-task=1", "--time=20", f"--output={place.folder}/%x-%j.out"]
    options += [f"--array={array}"] if array else []
    return lab.submit(*options, f"slurm/{script}.sbatch", place.config, *settings, cwd=place.folder)


def said(place: Place) -> str:
    """What all jobs have printed."""
    return "\n".join(path.read_text() for path in sorted(place.folder.glob("*.out")))[-8000:]


def rounds(folder: Path) -> int:
    """Rounds in a run's journal."""
    path = folder / "journal.jsonl"
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


def goes_on(lab: Cluster, place: Place, folder: Path, job: str, restarts: int) -> None:
    """Wait until the job has been put back so many times and has added steps since."""

    def restarted() -> bool:
        return lab.job(job).get("Restarts") == str(restarts)

    try:
        wait_for(restarted, PATIENCE_S)
        before = rounds(folder)
        wait_for(lambda: rounds(folder) > before + 3, PATIENCE_S)
    except AssertionError as error:
        raise AssertionError(f"{lab.job(job)}\n{said(place)}") from error


def check_bits(lab: Cluster, place: Place, folder: Path, job: str, tmp_path: Path) -> None:
    """Cancel the job, which stops the run after a step, and compare it with a local one of as many steps."""
    lab.ask("scancel", job)
    wait_for(lambda: not lab.ask("squeue", "-h", "-j", job), PATIENCE_S)
    steps = rounds(folder)
    finish(place, 1, f"run.steps={steps}", *ENDLESS[1:], f"run.folder={tmp_path / 'local'}")
    names = ("journal.jsonl", f"snapshot-{steps:08d}.safetensors")
    assert (folder / names[1]).exists(), said(place)
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name


def test_an_array_job_runs_one_seed_in_each_member(lab: Cluster, place: Place, tmp_path: Path):
    """From start to end, nothing in between."""
    job = submit(lab, place, "mpi", array="7")
    folder = place.folder / "runs" / "config-seed-7"
    wait_for(lambda: not lab.ask("squeue", "-h", "-j", job), PATIENCE_S)
    assert lab.job(job)["JobState"] == "COMPLETED", said(place)
    finish(place, 1, "run.seed=7", f"run.folder={tmp_path / 'local'}")
    for name in ("journal.jsonl", "metrics.jsonl", "snapshot-00000020.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name


def test_a_sweep_takes_the_allocation_as_it_is(lab: Cluster, place: Place, tmp_path: Path):
    """The nodes share this machine's network, whose counters tell nothing here."""
    options = ["--nodes=2", "--cpus-per-task=1", "--time=20", f"--output={place.folder}/%x-%j.out"]
    small = ["--probes=4", "--batch=2", "--tokens=6", "--steps=2", "--warmup=2", "--systems=zodist,ddp"]
    job = lab.submit(*options, "slurm/bandwidth.sbatch", tmp_path, *small, cwd=place.folder)
    wait_for(lambda: not lab.ask("squeue", "-h", "-j", job), PATIENCE_S)
    assert lab.job(job)["JobState"] == "COMPLETED", said(place)
    zodist, ddp = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert [(line["system"], line["workers"]) for line in (zodist, ddp)] == [("zodist", 2), ("ddp", 2)]
    assert zodist["payload_bytes"] == 2 * 16 and ddp["payload_bytes"] == 4 * ddp["parameters"]
    assert ddp["hosts"] == "2 hosts of the allocation" and (tmp_path / "step.png").exists()


def test_the_workers_of_a_node_hold_a_model_together(
    lab: Cluster, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two nodes of two workers each: two replicas in two parts."""
    monkeypatch.setitem(lab.environment, "WORKERS_PER_NODE", "2")
    settings = ("run.steps=4", *ENDLESS[1:])
    folder = tmp_path / "run"
    job = submit(lab, place, "zero_inference", *settings, "shard.kind=fsdp", f"run.folder={folder}")
    wait_for(lambda: not lab.ask("squeue", "-h", "-j", job), PATIENCE_S)
    assert lab.job(job)["JobState"] == "COMPLETED", said(place)
    finish(place, 1, *settings, f"run.folder={tmp_path / 'local'}")
    assert (folder / "journal.jsonl").read_bytes() == (tmp_path / "local" / "journal.jsonl").read_bytes()
    parts = sorted(path.name for path in folder.glob("snapshot-*"))
    assert parts == [f"snapshot-00000004.{n}-of-2.safetensors" for n in (0, 1)]
    timings = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    assert timings[0]["workers"] == 4


@pytest.mark.parametrize("script", ["mpi", "torchrun", "elastic"])
def test_a_job_whose_time_is_up_goes_on_after_a_snapshot(
    lab: Cluster, place: Place, tmp_path: Path, script: str
):
    folder = tmp_path / "run"
    job = submit(lab, place, script, *ENDLESS, f"run.folder={folder}")
    goes_on(lab, place, folder, job, restarts=0)
    lab.ask("scancel", "--batch", "--signal=USR1", job)  # as Slurm itself does shortly before the limit
    wait_for(lambda: lab.job(job).get("Restarts") == "1", PATIENCE_S)
    assert (folder / f"snapshot-{rounds(folder):08d}.safetensors").exists(), said(place)
    goes_on(lab, place, folder, job, restarts=1)
    check_bits(lab, place, folder, job, tmp_path)


@pytest.mark.parametrize("script", ["mpi", "torchrun"])
def test_a_job_whose_node_crashes_goes_on_on_others(lab: Cluster, place: Place, tmp_path: Path, script: str):
    """Its second node, with everything on it; Slurm finds out, puts the job back and starts it elsewhere."""
    folder = tmp_path / "run"
    job = submit(lab, place, script, *ENDLESS, f"run.folder={folder}")
    goes_on(lab, place, folder, job, restarts=0)
    node = lab.ask("scontrol", "show", "hostnames", lab.job(job)["NodeList"]).split()[1]
    lab.crash(node)
    goes_on(lab, place, folder, job, restarts=1)
    assert node not in lab.ask("scontrol", "show", "hostnames", lab.job(job)["NodeList"]).split()
    check_bits(lab, place, folder, job, tmp_path)
    lab.boot(node)


def test_an_elastic_job_does_not_notice_the_crash_of_a_node(lab: Cluster, place: Place, tmp_path: Path):
    """The worker there is not missed: the job is not put back, and the supervisor on the first node goes on."""
    folder = tmp_path / "run"
    job = submit(lab, place, "elastic", *ENDLESS, f"run.folder={folder}")
    goes_on(lab, place, folder, job, restarts=0)
    out = place.folder / f"zodist-{job}.out"
    wait_for(lambda: out.read_text().count("joins (") == 2, PATIENCE_S)
    node = lab.ask("scontrol", "show", "hostnames", lab.job(job)["NodeList"]).split()[1]
    lab.crash(node)
    wait_for(lambda: "down" in lab.ask("sinfo", "-h", "-n", node, "-o", "%t"), PATIENCE_S)
    goes_on(lab, place, folder, job, restarts=0)
    check_bits(lab, place, folder, job, tmp_path)
    lab.boot(node)
