"""Snapshots: complete or absent, checked before use, and never the last good one lost."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from zodist.errors import SnapshotError
from zodist.journal.snapshot import newest, save

RUN = "0123456789abcdef"
TENSORS = {
    "weights": torch.arange(12, dtype=torch.float32).reshape(3, 4).t(),  # not contiguous
    "half": torch.tensor([1.5, -2.0, float("nan")], dtype=torch.bfloat16),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "empty": torch.zeros(0, 5),
    "flags": torch.tensor([True, False, True]),
    "ünïcode": torch.tensor([7], dtype=torch.uint8),
}


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right)]
    return torch.equal(*flat)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tensors_come_back_bit_for_bit(tmp_path):
    path = save(tmp_path / "new" / "folder", 100, TENSORS, RUN, keep=2)
    assert path.name == "snapshot-00000100.safetensors"
    found = newest(path.parent, RUN, at_most=100)
    assert found is not None
    assert (found.step, found.path, found.skipped) == (100, path, ())
    assert set(found.tensors) == set(TENSORS)
    assert all(same_bits(found.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_the_safetensors_package_reads_the_file_and_all_tensors_are_aligned(tmp_path):
    path = save(tmp_path, 1, TENSORS, RUN, keep=1)
    loaded = load_file(path)
    assert list(loaded) == [
        "scalar",
        "empty",
        "weights",
        "half",
        "flags",
        "ünïcode",
    ]
    assert all(same_bits(loaded[name], tensor) for name, tensor in TENSORS.items())
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    for name, tensor in TENSORS.items():
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0


def test_a_snapshot_of_more_rounds_than_the_journal_holds_is_passed_over(tmp_path, caplog):
    """The journal lost the last step's second round: the step has to be done again, so its snapshot is of no use."""
    caplog.set_level(logging.CRITICAL)
    save(tmp_path, 4, TENSORS, RUN, keep=3, rounds=2)
    save(tmp_path, 5, TENSORS, RUN, keep=3, rounds=2)
    for rounds, step in ((1, 4), (2, 5), (None, 5)):
        found = newest(tmp_path, RUN, 5, rounds)
        assert found is not None and found.step == step


def test_equal_tensors_give_equal_files(tmp_path):
    first = save(tmp_path / "a", 1, TENSORS, RUN, keep=1).read_bytes()
    turned = dict(reversed(list(TENSORS.items())))
    assert save(tmp_path / "b", 1, turned, RUN, keep=1).read_bytes() == first


def test_every_flipped_bit_is_found(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)  # thousands of warnings
    path = save(tmp_path, 3, {"w": torch.arange(4.0)}, RUN, keep=1)
    with path.open("r+b", buffering=0) as file:
        for at, byte in enumerate(path.read_bytes()):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), at)
                assert newest(tmp_path, RUN, at_most=3) is None, (at, bit)
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert newest(tmp_path, RUN, at_most=3) is not None


def test_every_cut_is_found(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    path = save(tmp_path, 3, {"w": torch.arange(4.0)}, RUN, keep=1)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        assert newest(tmp_path, RUN, at_most=3) is None, size
    path.write_bytes(data + b"\0")
    assert newest(tmp_path, RUN, at_most=3) is None


def test_a_damaged_snapshot_is_passed_over_with_its_reason(tmp_path, caplog):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, {"w": torch.full((3,), float(step))}, RUN, keep=9)
    damaged, empty = (tmp_path / f"snapshot-0000000{step}.safetensors" for step in (4, 3))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    empty.write_bytes(b"")
    found = newest(tmp_path, RUN, at_most=9)
    assert found is not None and found.step == 2 and found.tensors["w"].tolist() == [2.0] * 3
    assert [text.split(": ")[0] for text in found.skipped] == [str(damaged), str(empty)]
    assert "checksum does not match" in found.skipped[0] and "cut short" in found.skipped[1]
    assert len(caplog.records) == 2


def test_a_snapshot_ahead_of_the_journal_or_of_another_run_is_not_used(tmp_path):
    save(tmp_path, 1, {"w": torch.zeros(1)}, RUN, keep=9)
    save(tmp_path, 2, {"w": torch.zeros(1)}, "f" * 16, keep=9)
    save(tmp_path, 3, {"w": torch.zeros(1)}, RUN, keep=9)
    found = newest(tmp_path, RUN, at_most=2)
    assert found is not None and found.step == 1
    assert f"it has run {'f' * 16}, this needs run {RUN}" in found.skipped[0]
    os.rename(tmp_path / "snapshot-00000003.safetensors", tmp_path / "snapshot-00000002.safetensors")
    found = newest(tmp_path, RUN, at_most=2)
    assert found is not None and found.step == 1 and "it has step 3" in found.skipped[0]
    assert newest(tmp_path / "absent", RUN, at_most=9) is None


def test_the_newest_are_kept_and_the_one_just_written_always(tmp_path):
    (tmp_path / "snapshot-00000099.safetensors.unfinished").write_bytes(b"left by a writer that died")
    (tmp_path / "journal.jsonl").touch()
    for step in (10, 20, 30):
        save(tmp_path, step, {"w": torch.zeros(1)}, RUN, keep=2)
    kept = ["journal.jsonl", "snapshot-00000020.safetensors", "snapshot-00000030.safetensors"]
    assert names(tmp_path) == kept
    save(tmp_path, 5, {"w": torch.zeros(1)}, RUN, keep=1)  # gone back: later files are not this fold's
    assert names(tmp_path) == sorted([*kept, "snapshot-00000005.safetensors"])


def test_tensors_are_read_one_by_one_and_outlive_the_file(tmp_path):
    save(tmp_path, 1, TENSORS, RUN, keep=1)
    found = newest(tmp_path, RUN, at_most=1)
    assert found is not None
    found.path.unlink()
    assert same_bits(found.tensors["half"], TENSORS["half"])
    changed = found.tensors["weights"].add_(1)  # the caller's own memory
    assert not same_bits(changed, found.tensors["weights"])
    with pytest.raises(KeyError):
        found.tensors["absent"]


def fill(folder: Path, reason: int) -> None:
    with pytest.raises(SnapshotError, match=f"cannot write the snapshot {folder}.*: {os.strerror(reason)}"):
        save(folder, 2, {"w": torch.ones(1_000_000)}, RUN, keep=1)
    assert names(folder) == ["snapshot-00000001.safetensors"]
    found = newest(folder, RUN, at_most=9)
    assert found is not None and found.tensors["w"].sum() == 100


def test_a_file_limit_leaves_the_older_snapshot_and_no_debris(tmp_path):
    save(tmp_path, 1, {"w": torch.ones(100)}, RUN, keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        fill(tmp_path, errno.EFBIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_older_snapshot_and_no_debris(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        save(tmp_path, 1, {"w": torch.ones(100)}, RUN, keep=1)
        fill(tmp_path, errno.ENOSPC)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_failed_write_leaves_the_older_snapshots(tmp_path, monkeypatch):
    save(tmp_path, 1, {"w": torch.zeros(1)}, RUN, keep=1)

    def fsync(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SnapshotError, match=os.strerror(errno.EIO)):
        save(tmp_path, 2, {"w": torch.zeros(1)}, RUN, keep=1)
    assert names(tmp_path) == ["snapshot-00000001.safetensors"]


def test_a_type_that_cannot_be_kept_is_refused_by_name(tmp_path):
    with pytest.raises(SnapshotError, match=r"'c' is torch.complex64"):
        save(tmp_path, 1, {"c": torch.zeros(1, dtype=torch.complex64)}, RUN, keep=1)
