"""What holds for every method of the registry: the shared suite, and whole runs of real processes on a tiny model."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from runs import Place, finish, launch, make_place, wait_for

from zodist.config import load
from zodist.errors import JournalError
from zodist.methods.registry import METHODS
from zodist.run import replay, train
from zodist.testing import CHECKS, subject

STEPS = 5
END = ("journal.jsonl", f"snapshot-{STEPS:08d}.safetensors")
CHANGES = ("run.steps=5", "output.evaluate_every=0", "output.snapshot_every=2", "task.test=4", "batch.size=3")


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
@pytest.mark.parametrize("name", METHODS)
def test_the_suite(name, check):
    check(subject(name))


@dataclass(frozen=True)
class Run:
    """A finished run of one worker, and the way to do it again elsewhere."""

    place: Place

    def again(self, folder: Path) -> tuple[str, ...]:
        """The changes to the config that make the same run in another folder."""
        return (*CHANGES, f"run.folder={folder}")

    def here(self, folder: Path) -> None:
        """Run to the end in this process, from wherever the folder's journal stands."""
        train(load(self.place.config, self.again(folder)), quiet=True)

    def same(self, folder: Path) -> None:
        """Journal and last snapshot have the bits of this run."""
        for name in END:
            assert (folder / name).read_bytes() == self.place.file(name), name

    def rounds(self) -> list[tuple[int, int]]:
        """Step and round of every line."""
        return [(line["t"], line["r"]) for line in self.place.lines("journal.jsonl")[1:]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A model, a task and a config for all methods."""
    return make_place(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module", params=list(METHODS))
def run(request: pytest.FixtureRequest, base: Place, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of a method, uninterrupted, on one worker."""
    settings = {"name": request.param} | subject(request.param).settings(probes=3)
    table = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    text = re.sub(r"\[method\]\n.*?\[", f"[method]\n{table}[", base.config.read_text(), flags=re.DOTALL)
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "config.toml").write_text(text)
    made = Run(Place(folder, folder / "config.toml"))
    made.here(made.place.run)
    return made


@pytest.mark.parametrize("workers", [2, 3])
def test_more_workers_give_the_same_bits(run: Run, tmp_path: Path, workers: int):
    finish(run.place, workers, *run.again(tmp_path / "run"))
    run.same(tmp_path / "run")


def test_a_killed_run_resumes_to_the_same_bits(run: Run, tmp_path: Path):
    """SIGKILL to both workers as soon as a few rounds are down."""
    folder = tmp_path / "run"
    journal = folder / "journal.jsonl"
    begun = launch(run.place, 2, *run.again(folder))
    wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 3)
    begun.kill()
    run.here(folder)
    run.same(folder)


def test_every_beginning_of_the_last_step_resumes_to_the_same_bits(run: Run, tmp_path: Path):
    """The journal is cut after each round of the last step, all snapshots left where they are."""
    lines = run.place.file("journal.jsonl").splitlines(keepends=True)
    last = [number for number, (t, _) in enumerate(run.rounds(), 1) if t == STEPS - 1]
    for cut in last:
        folder = tmp_path / str(cut)
        shutil.copytree(run.place.run, folder)
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:cut]))
        run.here(folder)
        run.same(folder)


def test_replay_leaves_out_a_step_that_lacks_rounds(run: Run, tmp_path: Path):
    """Whole, the journal has the snapshot's digest; cut within the last step, that of the step before."""
    rebuild = partial(replay, model=str(load(run.place.config).model.name))
    whole = rebuild(run.place.run)
    assert whole.verified and whole.steps == STEPS and whole.digest == run.place.digest()
    lines, rounds = run.place.file("journal.jsonl").splitlines(keepends=True), run.rounds()
    if rounds[-1] != (STEPS - 1, 0):
        folder = tmp_path / "cut"
        shutil.copytree(run.place.run, folder)
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:-1]))
        cut = rebuild(folder)
        assert cut.verified and cut.steps == STEPS - 1  # snapshots were kept every second step
        assert cut.digest == rebuild(run.place.run, steps=STEPS - 1).digest
        with pytest.raises(JournalError, match=rf"holds {STEPS - 1} complete steps; .* not {STEPS}"):
            rebuild(folder, steps=STEPS)


def test_more_steps_than_the_journal_holds_are_refused(run: Run):
    with pytest.raises(JournalError, match=f"holds {STEPS} complete steps; ask for 0 to {STEPS}, not 9"):
        replay(run.place.run, steps=9)
