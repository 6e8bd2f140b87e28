"""What a run writes beside its journal.

metrics.jsonl  what was learned, one JSON object a line: {"step", "loss", "slope", "lr", "forwards"} of every step, with
               "skipped" probes and "outliers" among the items (zodist.step.robust) if there are any; evaluations
               {"step", "split", ...}, digests {"step", "digest"}.  A function of the fold: the same file for any number of
               workers, however often the run was killed.
timings.jsonl  how it went, for people: sessions, workers, seconds, bytes; {"event"} of an elastic run: a sentence.  Never
               read by the fold.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zodist.errors import JournalError

METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"  # of a run folder


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete JSON lines of a file, in order; none if there is no file.  A torn last line is left out."""
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def write_whole(path: Path, text: str) -> None:
    """Put a text file in place at once: afterwards the old or the new one is there, whatever happens."""
    fresh = path.with_name(path.name + ".unfinished")
    try:
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)
    except OSError as error:
        raise JournalError(f"cannot write {path}: {error.strerror}; the journal is intact") from error


class _Lines:
    """A file of JSON lines that is being added to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("a", encoding="ascii", buffering=1)
        except OSError as error:
            raise JournalError(f"cannot write {path}: {error.strerror}; the journal is intact") from error

    def add(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(_text(line))
        except OSError as error:
            raise JournalError(
                f"cannot write {self.path}: {error.strerror}; the journal is intact"
            ) from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # said when it was written


class Metrics:
    """metrics.jsonl, kept up to a step and written on from there."""

    def __init__(
        self, path: Path, step: int, tell: Callable[[dict[str, Any]], None] = lambda line: None
    ) -> None:
        """Keep what was written up to ``step``.  tell: told every line that is added.

        ``evaluations`` has all that there were, later ones too: they hold for the same run and need not be paid twice.
        """
        self._tell = tell
        lines = list(read_lines(path))
        kept = [line for line in lines if line.get("step", 0) <= step]
        self._seen = {(line["step"], _kind(line)) for line in kept if "step" in line}
        self.evaluations = [line for line in lines if "split" in line]
        write_whole(path, "".join(_text(line) for line in kept))
        self._lines = _Lines(path)

    def write(self, line: dict[str, Any]) -> None:
        """Add one line, unless a line of its kind for its step is there."""
        key = (line["step"], _kind(line))
        if key in self._seen:
            return
        self._seen.add(key)
        self._lines.add(line)
        self._tell(line)

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


class Timings:
    """timings.jsonl: appended to by every session."""

    def __init__(self, path: Path, workers: int, first_step: int) -> None:
        """Open a new session that begins at a step."""
        sessions = {line.get("session", 0) for line in read_lines(path)}
        self.session = max(sessions, default=0) + 1
        self._start = time.monotonic()
        self._lines = _Lines(path)
        self.write(first_step, workers=workers, started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def write(self, step: int, **figures: Any) -> None:
        """Add one line of this session."""
        seconds = round(time.monotonic() - self._start, 3)
        self._lines.add({"session": self.session, "step": step, "seconds": seconds, **figures})

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def _kind(line: dict[str, Any]) -> str:
    return line.get("split") or ("digest" if "digest" in line else "step")


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":")) + "\n"
