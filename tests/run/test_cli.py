"""The command line as a person and a program use it: real processes, what they print, how they exit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import Place, make_place


def zodist(*arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *launcher, *(() if launcher else ("zodist",)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def refused(found: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a command that was refused: exit code 2, nothing on stdout, no traceback."""
    assert found.returncode == 2, found
    assert found.stdout == "" and "Traceback" not in found.stderr
    lines = found.stderr.strip().splitlines()
    assert lines[-1].startswith("zodist: "), lines
    return lines[-1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run of two workers, started by torchrun as a user starts it."""
    made = make_place(tmp_path_factory.mktemp("cli"))
    launcher = (
        "torch.distributed.run",
        "--standalone",
        "--local-addr",
        "127.0.0.1",
        "--nproc-per-node",
        "2",
        "-m",
        "zodist",
    )
    found = zodist("train", made.config, "output.plot=true", launcher=launcher)
    assert found.returncode == 0, found.stderr
    (made.folder / "stdout").write_text(found.stdout)
    (made.folder / "stderr").write_text(found.stderr)
    return made


def test_a_run_says_before_after_and_what_to_do_next(place):
    printed = (place.folder / "stdout").read_text()
    for word in (
        "before   accuracy",
        "after    accuracy",
        "standard errors",
        place.digest(),
        "next     zodist inspect",
    ):
        assert word in printed
    progress = (place.folder / "stderr").read_text()
    for word in ("loss", "slope", "accuracy", "sent", "steps/s", "validation"):
        assert word in progress


def test_a_run_leaves_what_the_readme_promises(place):
    names = {path.name for path in place.run.iterdir()}
    wanted = {"config.toml", "journal.jsonl", "metrics.jsonl", "timings.jsonl", "plot.png"}
    assert wanted | {"snapshot-00000020.safetensors"} <= names
    assert place.file("plot.png").startswith(b"\x89PNG")


def test_inspect_gives_programs_what_they_ask_for(place):
    found = zodist("inspect", place.run, "--json")
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout)
    assert said["method"] == "mezo" and said["steps"] == 20 and said["probes"] == 4 and said["workers"] == 2
    assert said["digest"] == place.digest() and said["verified"] is True
    assert said["record_bytes_sent"] == 20 * 2 * 16 and said["bytes_sent"] > said["record_bytes_sent"]


def test_inspect_reads_well_to_a_person(place):
    found = zodist("inspect", place.run)
    assert found.returncode == 0 and "mezo" in found.stdout and place.digest() in found.stdout


def test_inspect_names_the_damaged_line(place, tmp_path):
    damaged = bytearray(place.file("journal.jsonl"))
    lines = damaged.split(b"\n")
    at = len(b"\n".join(lines[:5])) + 30  # inside line 6
    damaged[at] ^= 4
    (tmp_path / "journal.jsonl").write_bytes(damaged)
    assert "journal.jsonl:6" in refused(zodist("inspect", tmp_path, "--json")).replace(" line ", ":")


def test_replay_writes_the_run_s_weights(place, tmp_path):
    found = zodist("replay", place.run, "--out", tmp_path / "tuned", "--json")
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout)
    assert said["digest"] == place.digest() and said["verified"] is True
    assert (tmp_path / "tuned" / "model.safetensors").exists()


def test_evaluate_of_a_run_is_what_the_run_said(place):
    found = zodist("evaluate", place.run, "--json")
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout)
    last = [line for line in place.lines("metrics.jsonl") if line.get("split") == "test"][-1]
    assert {name: said[name] for name in ("accuracy", "loss", "calibrated")} == {
        name: last[name] for name in ("accuracy", "loss", "calibrated")
    }


def test_methods_lists_what_a_reader_compares():
    said = json.loads(zodist("methods", "--json").stdout)
    (mezo,) = [row for row in said if row["name"] == "mezo"]
    assert "2305.17333" in mezo["paper"] and mezo["forwards_per_step"] == "2 per probe" and mezo["replay"]


@pytest.mark.parametrize(
    "command",
    [(), ("train",), ("evaluate",), ("replay",), ("apply",), ("inspect",), ("methods",), ("bench", "step")],
)
def test_every_command_explains_itself(command):
    found = zodist(*command, "--help")
    assert found.returncode == 0 and "Usage" in found.stdout and len(found.stdout) > 400


def test_mistakes_are_one_sentence_and_exit_code_2(place, tmp_path):
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(place.config.read_text().replace("lr = ", "lrr = "))
    assert "[rule] has no key 'lrr'; did you mean 'lr'?" in refused(zodist("train", wrong))
    assert "none.toml" in refused(zodist("train", tmp_path / "none.toml"))
    assert "batch.size" in refused(zodist("train", place.config, "batch.size=0"))
    assert "must be train, validation or test" in refused(zodist("evaluate", place.config, "--split", "dev"))
    assert "holds no journal.jsonl" in refused(zodist("inspect", tmp_path))
    assert "journal" in refused(zodist("replay", tmp_path))
    assert "does not exist" in refused(zodist("train", place.config, "model.name=/nowhere"))
    assert "task" in refused(zodist("train", place.config, f"task.name={tmp_path}/none.toml"))


def test_check_reads_the_config_and_runs_nothing(place, tmp_path):
    found = zodist("train", place.config, f"run.folder={tmp_path / 'run'}", "--check")
    assert found.returncode == 0 and not (tmp_path / "run").exists()


def test_nothing_of_the_user_s_is_touched_by_a_refused_run(place, tmp_path):
    before = {path.name: path.read_bytes() for path in Path(place.run).iterdir()}
    refused(zodist("train", place.config, "rule.lr=0.5"))
    assert {path.name: path.read_bytes() for path in Path(place.run).iterdir()} == before


def test_threads_are_what_was_asked_for_whoever_starts_its_pool_first():
    """In a new process without the command line's environment: numba's start used to set torch's threads back."""
    code = (
        "from zodist.exchange.threads import set_threads; import torch; set_threads(1); a = torch.get_num_threads();"
        "from zodist.kernels import cpu; import numpy as np;"
        "cpu.digest_parallel(np.zeros(10, np.uint32), 0, np.uint64(1)); print(a, torch.get_num_threads())"
    )
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_THREADING", "OMP_"))}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=bare)
    assert found.stdout.split() == ["1", "1"]
