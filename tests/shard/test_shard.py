"""Models held in parts: the same run, to the bit, as with a whole model in every worker."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import Place, finish, launch, make_place

from zodist.config import load
from zodist.errors import ConfigError, ModelError
from zodist.journal import Part, Tensors, inspect, newest, prune, write
from zodist.run import replay
from zodist.shard.library import cutter
from zodist.shard.mesh import Mesh, mesh


class Run:
    """A run to its end, in a folder of its own."""

    def __init__(self, place: Place, name: str) -> None:
        self.place, self.folder = place, place.folder / name

    def go(self, workers: int, *overrides: str) -> Run:
        finish(self.place, workers, f"run.folder={self.folder}", *overrides)
        return self

    def __eq__(self, other: object) -> bool:
        """The same losses, digests and scores, to the bit."""
        names = ("journal.jsonl", "metrics.jsonl")
        return isinstance(other, Run) and all(self.file(name) == other.file(name) for name in names)

    def file(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A tied Llama, hidden size 32; no part of a third of it begins at a row, and of a norm the last is shorter."""
    return make_place(tmp_path_factory.mktemp("shard"))


@pytest.fixture(scope="module")
def whole(place: Place) -> Callable[[str], Run]:
    """The run with the whole model in one worker, in some dtype."""
    made: dict[str, Run] = {}

    def make(dtype: str) -> Run:
        if dtype not in made:
            made[dtype] = Run(place, f"whole-{dtype}").go(1, f"model.dtype={dtype}")
        return made[dtype]

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dtype", "workers", "size"),
    [
        ("fsdp", "float32", 1, 1),
        ("zero", "bfloat16", 1, 1),
        ("fsdp", "bfloat16", 2, 0),
        ("zero", "float32", 2, 0),
        ("fsdp", "float32", 3, 3),
        ("zero", "bfloat16", 3, 3),
        ("fsdp", "bfloat16", 4, 2),
        ("zero", "float32", 4, 2),
        ("zero", "bfloat16", 2, 1),
    ],
)
def test_a_sharded_run_is_the_unsharded_run(
    place: Place, whole: Callable[[str], Run], kind: str, dtype: str, workers: int, size: int
) -> None:
    """Four probes: with three workers the second and third run along while the first evaluates the last."""
    settings = (f"model.dtype={dtype}", f"shard.kind={kind}", f"shard.size={size}")
    assert Run(place, f"{kind}-{workers}-{size}").go(workers, *settings) == whole(dtype)


@pytest.mark.slow
def test_a_sharded_run_goes_on_at_another_size_and_is_replayed_without_shards(
    place: Place, whole: Callable[[str], Run]
) -> None:
    """From a snapshot in two parts to three of another library, from those to a whole model."""
    run = Run(place, "resized")
    run.go(2, "run.steps=9", "shard.kind=zero")
    parts = [path.name for path in run.folder.glob("snapshot-*")]
    assert sorted(parts) == [f"snapshot-{t:08d}.{n}-of-2.safetensors" for t in (7, 9) for n in (0, 1)]
    for journal_only in run.folder.glob("snapshot-00000009*"):
        journal_only.unlink()
    run.go(3, "run.steps=15", "shard.kind=fsdp")
    run.go(1)
    assert run.file("journal.jsonl") == whole("float32").file("journal.jsonl")
    found = inspect(run.folder)
    assert found["snapshot_step"] == 20 and found["digest"] == inspect(whole("float32").folder)["digest"]
    rebuilt = replay(run.folder, steps=15)
    assert rebuilt.verified, "the snapshot in three parts must be what the replay gives"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp", "zero"])
def test_when_one_of_a_group_dies_the_run_ends_and_goes_on_with_the_same_bits(
    place: Place, whole: Callable[[str], Run], kind: str
) -> None:
    """Its own group notices in a library's collective, the other replica at the exchange: both in a sentence."""
    run = Run(place, f"death-{kind}")
    settings = (f"run.folder={run.folder}", f"shard.kind={kind}", "shard.size=2")
    started = launch(place, 4, *settings, die=(3, 11))
    assert started.wait() == [2, 2, 2, -9]
    assert all("worker" in started.error(w) and "\n" not in started.error(w) for w in range(3))
    assert run.go(4, *settings[1:]) == whole("float32")


@pytest.mark.slow
def test_weights_in_mapped_files_give_the_same_run(place: Place, whole: Callable[[str], Run]) -> None:
    files = place.folder / "files"
    settings = ("shard.kind=zero", "shard.offload=nvme", f"shard.folder={files}")
    assert Run(place, "mapped").go(2, *settings) == whole("float32")
    assert not list(files.iterdir()), "the files vanish with their process"


@pytest.mark.slow
def test_a_method_that_needs_whole_weights_is_refused_at_the_start(place: Place) -> None:
    started = launch(place, 2, f"run.folder={place.folder}/hizoo", "method.name=hizoo", "shard.kind=fsdp")
    assert started.wait() == [2, 2]
    assert started.error(1).startswith("method.name = 'hizoo' perturbs by numbers that it keeps")


def test_groups_are_consecutive_workers() -> None:
    places = [mesh(worker, 6, beside=6, size=3) for worker in range(6)]
    assert [(m.replica, m.place) for m in places] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert mesh(5, 8, beside=4, size=0) == Mesh(2, 4, 1, 1)


def test_a_size_that_does_not_divide_the_workers_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match="shard.size = 4 does not divide the 6 workers.*one of 1, 2, 3, 6$"):
        mesh(0, 6, beside=6, size=4)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["shard.size=2"], "shard.size has no effect with shard.kind = 'none'"),
        (["shard.kind=fsdp", "shard.offload=cpu"], "shard.offload = 'cpu' needs DeepSpeed"),
        (["shard.kind=zero", "shard.offload=nvme"], "must be given together"),
        (["shard.kind=zero", "model.master=float32"], "model.master = 'float32' keeps numbers"),
        (["shard.kind=fsdp", "batch.cache_frozen=true"], "batch.cache_frozen = true skips layers"),
        (["shard.share=batch"], "shard.share has no effect"),
        (
            ["shard.kind=fsdp", "shard.share=batch"],
            "batch.examples_per_forward = 0 examples, of batch.size = 3",
        ),
        (["shard.kind=fsdp", "shard.share=batch", "batch.examples_per_forward=3"], "= 3 examples, of batch"),
        (
            ["shard.kind=fsdp", "shard.share=batch", "batch.examples_per_forward=1", "method.name=zodist"],
            "method.name = 'zodist' has directions for every example",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_one_sentence(
    place: Place, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        load(place.config, overrides)
    assert "\n" not in str(error.value)


def test_a_run_without_deepspeed_is_a_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as the import system has it that there is none
    with pytest.raises(
        ModelError, match=r"deepspeed, which is not installed; run: pip install 'zodist\[deepspeed\]'"
    ):
        cutter("zero")


def test_a_snapshot_in_parts_is_read_whole_and_in_other_ranges(tmp_path: Path) -> None:
    numbers, count = torch.arange(10.0), torch.tensor([3])
    for n, (first, stop) in enumerate([(0, 4), (4, 8), (8, 10)]):
        part = Part(n, 3, {"weights/a": first})
        write(tmp_path, 5, {"weights/a": numbers[first:stop], "rule/steps": count}, "run", 1, part)
    found = newest(tmp_path, "run", 5)
    assert found is not None and torch.equal(found.tensors["weights/a"], numbers)
    assert torch.equal(found.tensors["rule/steps"], count)
    for first in range(11):
        for stop in range(first, 11):
            assert torch.equal(found.tensors.range("weights/a", first, stop), numbers[first:stop])


def test_a_snapshot_with_a_part_missing_or_damaged_is_passed_over(tmp_path: Path) -> None:
    def parts(step: int) -> list[Path]:
        return [
            write(tmp_path, step, {"w": torch.ones(2)}, "run", 1, Part(n, 2, {"w": 2 * n})) for n in (0, 1)
        ]

    parts(1)
    second, third = parts(2), parts(3)
    third[1].unlink()
    second[1].write_bytes(second[1].read_bytes()[:-1] + b"x")
    found = newest(tmp_path, "run", 9)
    assert found is not None and found.step == 1 and len(found.skipped) == 1
    prune(tmp_path, 3, 1)
    assert sorted(tmp_path.iterdir()) == sorted(second), "a set that is not complete counts as none"


def test_a_whole_snapshot_is_read_in_ranges(tmp_path: Path) -> None:
    path = write(tmp_path, 1, {"weights/a": torch.arange(6.0), "m": torch.ones(2, 2)}, "run")
    assert torch.equal(Tensors([path]).range("weights/a", 2, 5), torch.arange(2.0, 5.0))
