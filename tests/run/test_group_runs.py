"""Runs whose workers evaluate groups of probes: no number of workers, crash or resumption changes a bit."""

from __future__ import annotations

import json

import pytest
from elastic_runs import Fleet
from runs import Place, finish, launch, make_place, wait_for

FILES = ("journal.jsonl", "metrics.jsonl", "snapshot-00000009.safetensors")
# Five probes in groups of two: the last group is short.
SHORT = ("run.steps=9", "method.probes=5", "output.evaluate_every=0", "output.test=false")
GROUPED = (*SHORT, "batch.probes_per_forward=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return make_place(tmp_path_factory.mktemp("groups"))


@pytest.fixture(scope="module")
def reference(place, tmp_path_factory) -> dict[str, bytes]:
    """The files of one worker."""
    folder = tmp_path_factory.mktemp("reference")
    finish(place, 1, *GROUPED, f"run.folder={folder}")
    return files(folder)


def files(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def header(folder) -> dict:
    return json.loads((folder / "journal.jsonl").read_bytes().splitlines()[0])


@pytest.mark.parametrize("workers", [2, 3])
def test_world_sizes_give_the_same_files(place, reference, tmp_path, workers):
    finish(place, workers, *GROUPED, f"run.folder={tmp_path}")
    assert files(tmp_path) == reference
    assert header(tmp_path)["probes_per_forward"] == 2


@pytest.mark.parametrize("packed", ["true", "false"])
def test_lanes_and_pieces_keep_the_bits(place, tmp_path, packed):
    """Two lanes of data for each probe, in pieces of two examples."""
    more = ("batch.data_lanes=2", "batch.examples_per_forward=2", f"batch.packed={packed}", "run.steps=9")
    for workers in (1, 3):
        finish(place, workers, *GROUPED, *more, f"run.folder={tmp_path / str(workers)}")
    assert files(tmp_path / "1") == files(tmp_path / "3")


def test_losses_are_those_of_single_probes_to_rounding(place, reference, tmp_path):
    """The first step's, before the weights differ; and a group of one is a run that knows no groups."""
    finish(place, 1, *SHORT, f"run.folder={tmp_path / 'single'}")
    finish(place, 1, *SHORT, "batch.probes_per_forward=1", f"run.folder={tmp_path / 'one'}")
    assert files(tmp_path / "single") == files(tmp_path / "one")
    assert "probes_per_forward" not in header(tmp_path / "single")
    lines = [raw["metrics.jsonl"].splitlines() for raw in (files(tmp_path / "single"), reference)]
    single, grouped = ([json.loads(line) for line in own if b'"slope"' in line] for own in lines)
    assert grouped[0]["loss"] == pytest.approx(single[0]["loss"], rel=1e-6)
    assert grouped[0]["slope"] == pytest.approx(single[0]["slope"], rel=1e-3)
    assert single[-1]["loss"] != grouped[-1]["loss"], "then nothing went through one forward"


def test_examples_with_points_of_their_own_form_groups_too(place, tmp_path):
    """Their probes go through forwards one by one, so the losses are those of single probes, to the bit."""
    grzo = ("method.name=grzo", *SHORT)
    finish(place, 2, *grzo, "batch.probes_per_forward=2", f"run.folder={tmp_path / 'groups'}")
    finish(place, 1, *grzo, f"run.folder={tmp_path / 'single'}")
    assert files(tmp_path / "groups")[FILES[2]] != b""
    rounds = [(tmp_path / name / FILES[0]).read_bytes().splitlines()[1:] for name in ("groups", "single")]
    assert rounds[0] == rounds[1]


def test_a_killed_run_goes_on_with_another_number_of_workers(place, reference, tmp_path):
    begun = launch(place, 2, *GROUPED, f"run.folder={tmp_path}")
    journal = tmp_path / "journal.jsonl"
    wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 3)
    begun.kill()
    finish(place, 3, *GROUPED, f"run.folder={tmp_path}")
    assert files(tmp_path) == reference


def test_another_size_for_the_same_folder_is_named(place, tmp_path):
    finish(place, 1, *GROUPED, "run.steps=1", f"run.folder={tmp_path}")
    begun = launch(place, 1, *SHORT, "batch.probes_per_forward=4", f"run.folder={tmp_path}")
    assert begun.wait() == [2] and "probes_per_forward is 2 there, 4 here" in begun.error()


def test_auto_is_decided_once(place, tmp_path):
    """Two workers begin with five probes: two for each; three go on with that.  One worker alone would take four."""
    auto = (*SHORT, "batch.probes_per_forward=auto")
    finish(place, 2, *auto, "run.steps=4", f"run.folder={tmp_path / 'run'}")
    finish(place, 3, *auto, f"run.folder={tmp_path / 'run'}")
    assert header(tmp_path / "run")["probes_per_forward"] == 2
    finish(place, 1, *auto, "run.steps=1", f"run.folder={tmp_path / 'alone'}")
    assert header(tmp_path / "alone")["probes_per_forward"] == 4
    finish(
        place,
        1,
        *auto,
        "run.steps=1",
        "batch.size=48",
        "batch.activation_mib=1",
        f"run.folder={tmp_path / 'f'}",
    )
    assert header(tmp_path / "f").get("probes_per_forward", 1) < 4, "a group has to fit"


def test_elastic_workers_claim_groups(place, reference, tmp_path):
    fleet = Fleet(place, tmp_path, *GROUPED)
    try:
        fleet.supervise()
        fleet.work(2)
        fleet.finish()
        assert files(fleet.run) == reference
    finally:
        fleet.close()
