"""A shard group that divides the batch of each probe: the bits of one worker that evaluates it in the same pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
from elastic_runs import Fleet
from runs import Place, finish, make_place
from shard_groups import group

PIECES = ("batch.examples_per_forward=1", "run.steps=12")
NAMES = ("journal.jsonl", "metrics.jsonl")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run of one worker, in its folder ``run``: three pieces a batch, which two workers cannot share equally."""
    made = make_place(tmp_path_factory.mktemp("shard-batch"))
    finish(made, 1, *PIECES)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "workers", "size"), [("zero", 2, 2), ("fsdp", 3, 3), ("fsdp", 4, 2)])
def test_a_divided_batch_gives_the_same_run(
    place: Place, tmp_path: Path, kind: str, workers: int, size: int
) -> None:
    settings = (f"shard.kind={kind}", f"shard.size={size}", "shard.share=batch", f"run.folder={tmp_path}")
    finish(place, workers, *PIECES, *settings)
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == place.file(name), name


@pytest.mark.slow
def test_a_run_goes_on_with_another_share_and_another_size(place: Place, tmp_path: Path) -> None:
    folder, stop = f"run.folder={tmp_path}", "run.steps=7"
    finish(place, 2, PIECES[0], stop, "shard.kind=fsdp", "shard.share=batch", folder)
    finish(place, 3, *PIECES, "shard.kind=fsdp", "shard.share=batch", folder)
    assert (tmp_path / NAMES[0]).read_bytes() == place.file(NAMES[0])


@pytest.mark.slow
def test_in_an_elastic_run_one_group_may_divide_batches_and_another_probes(
    place: Place, tmp_path: Path
) -> None:
    fleet = Fleet(place, tmp_path, *PIECES)
    try:
        fleet.supervise()
        fleet.hold(1)
        members = group(fleet, 2, "shard.kind=fsdp", "shard.share=batch") + group(fleet, 2, "shard.kind=fsdp")
        fleet.hold(1, workers=4)
        fleet.release()
        fleet.finish()
        assert [fleet.ended(worker) for worker in members] == [0] * 4, fleet.words()
    finally:
        fleet.close()
    for name in NAMES:
        assert (fleet.run / name).read_bytes() == place.file(name), name
