"""The scripts of launch/ that hand over to another project's launcher, as a person calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from elastic_runs import free_port
from runs import PATIENCE_S, Place, finish, make_place

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A tiny run, in a folder that looks like a checkout in which everything is installed."""
    made = make_place(tmp_path_factory.mktemp("launch"))
    for name in ("launch", "pyproject.toml"):
        (made.folder / name).symlink_to(ROOT / name)
    venv = made.folder / ".venv"
    venv.mkdir()
    for found in Path(sys.prefix).iterdir():
        if not found.name.startswith("zodist-"):
            (venv / found.name).symlink_to(found)
    stamp = "source launch/environment.sh; checksum dev >.venv/zodist-dev"
    subprocess.run(["bash", "-c", stamp], cwd=made.folder, check=True)
    return made


def call(place: Place, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", f"launch/{script}.sh", *arguments],
        cwd=place.folder,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_deepspeeds_launcher_starts_a_sharded_run_with_the_bits_of_a_local_one(place: Place) -> None:
    options = ("--num_accelerators", "2", "--master_port", str(free_port()))
    settings = ("run.steps=4", "output.evaluate_every=0", "output.test=false")
    done = call(place, "deepspeed", *options, str(place.config), *settings, "shard.kind=zero")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    local = place.folder / "local"
    finish(place, 1, *settings, f"run.folder={local}")
    assert (local / "journal.jsonl").read_bytes() == place.file("journal.jsonl")
    parts = sorted(path.name for path in place.run.glob("snapshot-*"))
    assert parts == [f"snapshot-00000004.{n}-of-2.safetensors" for n in (0, 1)]


@pytest.mark.parametrize("script", ["deepspeed", "mpirun"])
@pytest.mark.parametrize("arguments", [(), ("-n", "2"), ("config.toml",)])
def test_options_and_a_config_must_both_be_given(
    place: Place, script: str, arguments: tuple[str, ...]
) -> None:
    done = call(place, script, *arguments)
    assert done.returncode == 2 and done.stderr.startswith(f"{script}.sh: usage: launch/{script}.sh -")
