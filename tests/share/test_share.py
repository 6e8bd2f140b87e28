"""A run as one small file: base model + file give the bits of the run, and nothing else passes for them."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from runs import Place, finish, make_place
from typer.testing import CliRunner

from zodist.__main__ import app
from zodist.errors import JournalError, ShareError
from zodist.journal import CONFIG, JOURNAL
from zodist.run import replay
from zodist.share.container import LIMITS, PROMISE, read, write
from zodist.share.pack import apply, share


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A finished run without snapshots."""
    made = make_place(tmp_path_factory.mktemp("shared"))
    finish(made, 1, "output.keep=0")
    return made


@pytest.fixture(scope="module")
def file(place: Place) -> Path:
    """The run as a file."""
    return share(place.run, place.folder / "run.zodist").path


def command(*arguments: object) -> dict:
    """What a command prints with --json."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_file_and_the_base_model_give_the_folder_that_replay_writes(place: Place, tmp_path: Path) -> None:
    said = command("share", place.run, "--out", tmp_path / "x.zodist")
    assert said["digest"] == place.digest() and said["steps"] == said["of"] == 20
    assert said["bytes"] == (tmp_path / "x.zodist").stat().st_size < 6000
    replayed = command("replay", place.run, "--push-folder", tmp_path / "replayed")
    applied = command(
        "apply", tmp_path / "x.zodist", "--out", tmp_path / "applied", "--model", place.folder / "model"
    )
    assert applied["digest"] == replayed["digest"] == place.digest() and applied["verified"]
    names = {path.name for path in (tmp_path / "replayed").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= names
    for name in names:
        here, there = ((tmp_path / folder / name).read_bytes() for folder in ("replayed", "applied"))
        assert here == there, name


def test_equal_runs_make_equal_files_that_name_nothing_of_this_machine(
    place: Place, file: Path, tmp_path: Path
) -> None:
    again = share(place.run, tmp_path / "again.zodist").path
    assert again.read_bytes() == file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == [PROMISE, CONFIG, JOURNAL]
        assert archive.read(JOURNAL) == place.file("journal.jsonl")
        assert not any(str(place.folder).encode() in archive.read(name) for name in archive.namelist())


def test_a_damaged_file_is_refused_or_says_the_same(file: Path, tmp_path: Path) -> None:
    """Bytes of the archive that say nothing, such as attributes of a member, may change; nothing else may."""
    whole, parcel, damaged = file.read_bytes(), read(file), tmp_path / "damaged.zodist"

    def refused(content: bytes) -> bool:
        damaged.write_bytes(content)
        try:
            found = read(damaged)
        except ShareError as error:
            assert "is damaged or no file of `zodist share` (" in str(error), error
            assert "get it again" in str(error)
            return True
        same = (parcel.promise, parcel.config, parcel.journal)
        assert (found.promise, found.config, found.journal) == same
        return False

    def flipped(at: int, bits: int) -> bytes:
        return whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :]

    sample = range(0, len(whole), 7)
    assert sum(refused(flipped(at, 0x10)) for at in sample) > 0.9 * len(sample)
    with zipfile.ZipFile(file) as archive:  # every bit of what says where things are and how long
        headers = [
            at for info in archive.infolist() for at in range(info.header_offset, info.header_offset + 30)
        ]
        for at in [*headers, *range(archive.start_dir, len(whole))]:
            for bit in range(8):
                refused(flipped(at, 1 << bit))
    for length in [*range(0, archive.start_dir, 97), *range(archive.start_dir, len(whole))]:
        assert refused(whole[:length])


def test_only_the_disk_s_own_errors_are_no_damage(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ShareError) as error:
            read(path)
        assert str(error.value) == f"cannot read {path}: {why}"


def test_a_member_that_unpacks_to_too_much_is_not_unpacked(file: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    held[CONFIG] = b" " * (LIMITS[CONFIG] + 1)
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in held.items():
            archive.writestr(name, data)
    with pytest.raises(ShareError, match="would unpack to 1048577 bytes"):
        read(tmp_path / "bomb")
    with zipfile.ZipFile(tmp_path / "more", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(PROMISE, b"{}")
    with pytest.raises(ShareError, match="holds 1 members"):
        read(tmp_path / "more")


def test_another_base_model_or_none_is_named(place: Place, file: Path, tmp_path: Path) -> None:
    fingerprint = read(file).promise.base.fingerprint
    other = make_place(tmp_path / "other", seed=9).folder / "model"
    for model, words in ((None, "./model.* does not exist"), (str(other), "say with --model")):
        with pytest.raises(
            ShareError, match=f"needs the base model './model' with fingerprint {fingerprint}.*{words}"
        ):
            apply(file, tmp_path / "out", model=model)
    assert not (tmp_path / "out").exists()


def test_a_broken_promise_writes_nothing(place: Place, file: Path, tmp_path: Path) -> None:
    parcel, model = read(file), str(place.folder / "model")
    wrong = replace(parcel, promise=parcel.promise.model_copy(update={"digest": "0" * 16}))
    write(tmp_path / "wrong", wrong)
    with pytest.raises(ShareError, match=f"promises digest 0{{16}} .* gives {place.digest()} after 20"):
        apply(tmp_path / "wrong", tmp_path / "out", model=model)
    write(tmp_path / "mixed", replace(parcel, config=parcel.config.replace("eps = 0.01", "eps = 0.02")))
    with pytest.raises(JournalError, match=r"differ in \[method\]"):
        apply(tmp_path / "mixed", tmp_path / "out", model=model)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_is_shared_as_far_as_it_has_come(place: Place, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / CONFIG).write_bytes(place.file(CONFIG))
    lines = place.file(JOURNAL).splitlines(keepends=True)
    (unfinished / JOURNAL).write_bytes(
        b"".join(lines[:14]) + lines[14][:40]
    )  # a header, 13 steps, a torn one
    packed = share(unfinished, tmp_path / "part.zodist")
    assert (packed.steps, packed.total) == (13, 20)
    applied = apply(packed.path, tmp_path / "out", model=str(place.folder / "model"))
    assert applied.steps == 13 and applied.digest == replay(place.run, steps=13).digest == packed.digest


def test_the_card_says_what_the_run_was(place: Place, tmp_path: Path) -> None:
    replay(place.run, tmp_path / "tuned")
    text = (tmp_path / "tuned" / "README.md").read_text()
    front, body = text.removeprefix("---\n").split("\n---\n")
    assert (
        front.splitlines()[0] == "library_name: transformers"
    )  # a base model that is a folder has no name on the hub
    assert "- mezo" in front and "base_model" not in front
    last = [line for line in place.lines("metrics.jsonl") if line.get("split") == "test"][-1]
    forwards = [line for line in place.lines("metrics.jsonl") if "slope" in line][-1]["forwards"]
    for words in (
        "# model trained on task",
        f"| after 20 steps | {last['accuracy']:.1%} ± {last['accuracy_error']:.1%} |",
        f"| {last['loss']:.4f} ± {last['loss_error']:.4f} |",
        f"digest `{place.digest()}`",
        f"| forward passes of a batch | {forwards} |",
        "| records of losses | 1.3 kB in all |",  # 20 steps, 4 probes, 16 bytes
        "arXiv:2305.17333",
        "20 of 20, seed 0",
    ):
        assert words in body, words
    assert str(place.folder) not in text
    replay(place.run, tmp_path / "part", steps=7)
    part = (tmp_path / "part" / "README.md").read_text()
    assert "7 of 20" in part and "accuracy" not in part.partition("## Reproduce")[0]
