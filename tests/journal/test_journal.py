"""The journal file: on disk before anyone acts, one writer, and whole lines after every failure."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zodist.errors import JournalError
from zodist.journal.file import Entry, Journal, read, run_id
from zodist.journal.format import header_line, line_of

HEADER = {"config": {"rule": {"lr": 0.0001}, "task": {"name": "sst2"}}, "model": "abc", "method": "mezo"}
ROUNDS = [
    Entry(0, 0, 1e-4, np.array([[0.5, 2.25]], np.float32)),
    Entry(0, 1, 1e-4, np.array([[0.25, 2.0], [np.nan, np.inf]], np.float32)),
    Entry(1, 0, 3.3e-5, np.array([[-0.125, 1e-30]], np.float32)),
]
FULL_DISK = 64 * 1024


def small_journal(path: Path) -> bytes:
    with Journal.create(path, HEADER) as log:
        for entry in ROUNDS:
            log.append(entry)
    return path.read_bytes()


def test_what_was_appended_is_read_back_bit_for_bit(tmp_path):
    path = tmp_path / "deep" / "folder" / "journal.jsonl"
    data = small_journal(path)
    contents = read(path)
    assert contents.entries == ROUNDS
    assert contents.header == {"format": "zodist-journal/1", "run": run_id(HEADER), **HEADER}
    assert (contents.end, contents.torn) == (len(data), False)


def test_open_cuts_a_torn_tail_and_goes_on(tmp_path):
    path = tmp_path / "j"
    data = small_journal(path)
    path.write_bytes(data[:-7])
    with Journal.open(path, HEADER) as log:
        assert log.entries == ROUNDS[:2]
        assert path.read_bytes() == data[: data.rindex(b"\n", 0, -7) + 1]
        log.append(ROUNDS[2])
    assert path.read_bytes() == data


@pytest.mark.parametrize("data", [b"", b"{", b"\0\0\0", header_line(HEADER)[:-1]])
def test_a_file_without_a_complete_header_is_no_journal(tmp_path, data):
    path = tmp_path / "j"
    path.write_bytes(data)
    for opening in (read, Journal.open):
        with pytest.raises(JournalError, match="no complete header"):
            opening(path)


def test_create_keeps_what_exists_and_heals_a_torn_header(tmp_path):
    path = tmp_path / "j"
    data = small_journal(path)
    with pytest.raises(JournalError, match="exists already"):
        Journal.create(path, HEADER)
    assert path.read_bytes() == data
    path.write_text("notes")
    with pytest.raises(JournalError, match="exists already"):
        Journal.create(path, HEADER)
    for torn in (b"", data[:10], data[:70], data[:30] + b"\0\0"):
        path.write_bytes(torn)
        Journal.create(path, HEADER).close()
        assert path.read_bytes() == header_line(HEADER)


def test_a_second_writer_is_refused_in_and_out_of_the_process(tmp_path):
    path = tmp_path / "j"
    code = (
        "import sys; from zodist.journal.file import Journal; from zodist.errors import JournalError\n"
        "try: Journal.open(sys.argv[1])\n"
        "except JournalError as error: sys.exit(str(error))\n"
    )
    with Journal.create(path, HEADER) as log:
        for again in (lambda: Journal.open(path), lambda: Journal.create(path, HEADER)):
            with pytest.raises(JournalError, match=f"{path} is being written by another process"):
                again()
        other = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
        assert other.returncode == 1 and f"{path} is being written by another process" in other.stderr
        log.append(ROUNDS[0])
        assert read(path).entries == ROUNDS[:1]  # reading needs no lock
    Journal.open(path).close()


def test_open_names_the_setting_in_which_the_run_differs(tmp_path):
    path = tmp_path / "j"
    small_journal(path)
    other = {**HEADER, "config": {"rule": {"lr": 0.001}, "task": {"name": "sst2"}}}
    with pytest.raises(JournalError, match="config.rule.lr is 0.0001 there, 0.001 here"):
        Journal.open(path, other)
    with pytest.raises(JournalError, match='method is "mezo" there, absent here'):
        Journal.open(path, {key: value for key, value in HEADER.items() if key != "method"})
    Journal.open(path, HEADER).close()  # a refused opening leaves no lock


def test_append_refuses_a_round_that_does_not_follow(tmp_path):
    with Journal.create(tmp_path / "j", HEADER) as log:
        for wrong in (Entry(1, 0, 0.1, ROUNDS[0].values), Entry(0, 1, 0.1, ROUNDS[0].values)):
            with pytest.raises(JournalError, match="does not follow the header"):
                log.append(wrong)
        log.append(ROUNDS[0])
        for step, round_ in ((0, 0), (0, 2), (1, 1), (2, 0)):
            with pytest.raises(JournalError, match="does not follow step 0 round 0"):
                log.append(Entry(step, round_, 0.1, ROUNDS[0].values))
        log.append(ROUNDS[1])
    with pytest.raises(JournalError, match="is closed"):
        log.append(ROUNDS[2])
    assert read(tmp_path / "j").entries == ROUNDS[:2]


def test_lines_and_folders_are_on_disk_before_anyone_can_act_on_them(tmp_path, monkeypatch):
    synced: list[tuple[str, int]] = []

    def fsync(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append((name, os.fstat(descriptor).st_size if name.endswith("j") else 0))

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name the synced files")
    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path.resolve() / "new" / "j"
    log = Journal.create(path, HEADER)
    size = len(header_line(HEADER))
    assert synced == [(str(tmp_path.resolve()), 0), (str(path), size), (str(path.parent), 0)]
    synced.clear()
    log.append(ROUNDS[0])
    size += len(line_of(ROUNDS[0]))
    assert synced == [(str(path), size)]
    log.close()
    synced.clear()
    Journal.open(path).close()  # the last writer may have been killed before its fsync
    assert synced == [(str(path), size), (str(path.parent), 0)]


FILL = """
import resource, signal, sys
import numpy as np
from zodist.errors import JournalError
from zodist.journal.file import Entry, Journal, read
path, limit = sys.argv[1], int(sys.argv[2])
log = Journal.create(path, {"model": "abc"})
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
values = np.ones((40, 2), np.float32)
for step in range(10_000):
    try:
        log.append(Entry(step, 0, 0.1, values))
    except JournalError as error:
        print(error)
        break
else:
    sys.exit("the disk never filled")
assert read(path).entries == log.entries and not read(path).torn and len(log.entries) == step
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * limit, resource.RLIM_INFINITY))
    log.append(Entry(step, 0, 0.1, values))  # room again: the same round is accepted
    assert len(read(path).entries) == step + 1
"""


def test_a_file_limit_leaves_a_journal_of_whole_lines_that_can_go_on(tmp_path):
    path = tmp_path / "j"
    run = [sys.executable, "-c", FILL, path, "20000"]
    result = subprocess.run(run, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"cannot write to the journal {path}: {os.strerror(errno.EFBIG)}" in result.stdout


def test_a_full_disk_leaves_a_journal_of_whole_lines(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={FULL_DISK}", "tmpfs", tmp_path]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        run = [sys.executable, "-c", FILL, tmp_path / "j", "0"]
        result = subprocess.run(run, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert os.strerror(errno.ENOSPC) in result.stdout
        with pytest.raises(JournalError, match=os.strerror(errno.ENOSPC)):
            Journal.create(tmp_path / "another", {"filler": "x" * FULL_DISK})
        assert not (tmp_path / "another").exists()
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with pytest.raises(JournalError, match=os.strerror(errno.EROFS)):
            Journal.open(tmp_path / "j")
        assert read(tmp_path / "j").entries
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_after_a_failed_fsync_nothing_more_is_written(tmp_path, monkeypatch):
    path = tmp_path / "j"
    log = Journal.create(path, HEADER)
    log.append(ROUNDS[0])
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, os.strerror(errno.EIO)))
        )
        with pytest.raises(JournalError, match=os.strerror(errno.EIO)):
            log.append(ROUNDS[1])
    with pytest.raises(JournalError, match="after a failed fsync"):
        log.append(ROUNDS[1])
    assert path.read_bytes() == before
    log.close()


def test_a_missing_journal_is_one_sentence(tmp_path):
    for opening in (read, Journal.open):
        with pytest.raises(JournalError, match="No such file"):
            opening(tmp_path / "j")
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot create the journal"):
        Journal.create(tmp_path / "file" / "j", HEADER)
