"""The write-ahead journal: one line per round, on disk before the round has any effect.

The bytes are defined in format.py.  Order of writing: lock the file, write the whole line, fsync;
only then may anyone act on the round.  The folder is fsynced when the file is created.  After a failed
write the file is cut back to the last good line, and `append` may be tried again; after a failed fsync the
state of the disk is unknown, and the journal must be opened again.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zodist.errors import JournalError
from zodist.journal.format import (
    Contents,
    difference,
    follows,
    header_line,
    is_torn_header,
    line_of,
    parse,
    place,
    run_id,
)
from zodist.step import Entry

JOURNAL, CONFIG = "journal.jsonl", "config.toml"  # of a run folder

__all__ = [
    "CONFIG",
    "JOURNAL",
    "Contents",
    "Entry",
    "Journal",
    "difference",
    "make_folder",
    "read",
    "run_id",
    "sync_folder",
]


def read(path: str | Path) -> Contents:
    """The contents of a journal, every line checked; takes no lock and changes nothing.

    Raises JournalError naming file and line if anything but a torn tail is wrong.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise JournalError(f"cannot read the journal {path}: {_reason(error)}") from error
    return parse(data, path)


class Journal:
    """An open journal that this process alone may extend; made by `create` or `open`."""

    def __init__(self, path: Path, descriptor: int, contents: Contents) -> None:
        """Take over an open, locked descriptor; use `create` or `open`."""
        self.path = path
        self.header = contents.header
        self.entries = contents.entries
        self._descriptor = descriptor
        self._end = contents.end
        self._broken = ""

    @classmethod
    def create(cls, path: str | Path, header: Mapping[str, Any]) -> Journal:
        """Start a journal on disk, folder included, and return it open and locked.

        header: JSON-able, without "format", "run" and "crc", which are added here.
        Raises JournalError if the file exists.  An empty file, or one that holds only the beginning of a
        header because its writer died, counts as not existing.
        """
        path = Path(path)
        taken = sorted({"format", "run", "crc"} & set(header))
        if taken:
            raise ValueError(f"header field {taken[0]!r} is written by the journal; leave it out")
        line = header_line(header)
        try:
            make_folder(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise JournalError(f"cannot create the journal {path}: {_reason(error)}") from error
        try:
            _lock(descriptor, path)
            found = _read_all(descriptor)
            if not is_torn_header(found):
                raise JournalError(f"{path} exists already; resume it, or choose another run.folder")
            os.ftruncate(descriptor, 0)
            journal = cls(path, descriptor, Contents(parse(line, path).header, [], 0, False))
            try:
                journal._write(line)
            except JournalError:
                path.unlink(missing_ok=True)
                raise
            sync_folder(path.parent)
        except OSError as error:
            os.close(descriptor)
            raise JournalError(f"cannot create the journal {path}: {_reason(error)}") from error
        except BaseException:
            os.close(descriptor)
            raise
        return journal

    @classmethod
    def open(cls, path: str | Path, header: Mapping[str, Any] | None = None) -> Journal:
        """Open a journal to go on with it: locked, checked, a torn tail cut off.

        header: what this process would have passed to `create`; if given, it must name the same run.
        Raises JournalError if another process holds the journal, a line is damaged, or the run differs.
        """
        path = Path(path)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise JournalError(f"cannot open the journal {path}: {_reason(error)}") from error
        try:
            _lock(descriptor, path)
            contents = parse(_read_all(descriptor), path)
            if header is not None and run_id(header) != contents.header["run"]:
                raise JournalError(
                    f"{path} belongs to another run: {difference(contents.header, header)};"
                    " restore the setting, or choose another run.folder"
                )
            if contents.torn:
                os.ftruncate(descriptor, contents.end)
            os.fsync(descriptor)  # a writer killed before its fsync left lines that no disk has yet
            sync_folder(path.parent)
        except OSError as error:
            os.close(descriptor)
            raise JournalError(f"cannot open the journal {path}: {_reason(error)}") from error
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, contents)

    def append(self, entry: Entry) -> None:
        """Put a round on disk; when this returns, the round survives a power cut.

        Raises JournalError if the round does not follow the last one or the disk refuses; nothing was added.
        """
        if self._broken:
            raise JournalError(self._broken)
        if not follows(entry.step, entry.round, self.entries[-1] if self.entries else None):
            raise JournalError(
                f"{self.path}: step {entry.step} round {entry.round} does not follow {place(self.entries)}"
            )
        self._write(line_of(entry))
        self.entries.append(entry)

    def close(self) -> None:
        """Release the lock and the file; further calls do nothing."""
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # a forked child may still hold the descriptor
            os.close(self._descriptor)
            self._descriptor = -1
            self._broken = f"{self.path} is closed"

    def __enter__(self) -> Journal:
        """Return the journal itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the journal."""
        self.close()

    def _write(self, line: bytes) -> None:
        """Write and fsync a line at the end; if that fails, restore the file and raise JournalError."""
        written = 0
        try:
            while written < len(line):  # one call, unless the disk is nearly full
                written += os.pwrite(self._descriptor, line[written:], self._end + written)
        except OSError as error:
            self._cut_back()
            raise JournalError(f"cannot write to the journal {self.path}: {_reason(error)}") from error
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._cut_back()
            self._broken = f"{self.path} may be incomplete after a failed fsync; start again to check it"
            raise JournalError(f"cannot write to the journal {self.path}: {_reason(error)}") from error
        self._end += len(line)

    def _cut_back(self) -> None:
        """Cut the file back to the last good line; if a partial one stays, the next reader drops it."""
        try:
            os.ftruncate(self._descriptor, self._end)
        except OSError as error:
            self._broken = f"{self.path} ends in a partial line that cannot be removed: {_reason(error)}"


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk: a file just created or renamed there survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync folders says so with EINVAL
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, and put them on disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise JournalError(
            f"{path} is being written by another process; stop it, or choose another run.folder"
        ) from error
    if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
        raise JournalError(f"{path} was replaced while it was being opened; start again")


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return file.read()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
