"""A program that judges written answers: a JSON object a line on its standard input, a number a line on its standard output.

It is started when the first answers come and lives as long as this process: its input ends then, and it should as well.  All
answers of a batch are written at once, in a thread, so a program may read ahead and judge several together.
"""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from zodist.errors import ObjectiveError

if TYPE_CHECKING:
    from zodist.objective.reward import Written

_LEAVING_S = 5.0  # that a program which has closed its output gets to end


class Command:
    """The rewards of a program.  timeout_s: how long it may take over one answer."""

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._command, self._timeout_s = list(command), timeout_s
        self._name = " ".join(command)
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __call__(self, written: Sequence[Written]) -> list[float]:
        """A finite number for each.  Raises ObjectiveError, in one sentence, where there is none."""
        process = self._process = self._process or self._start()
        if not self._lines.empty() and (line := self._lines.get()):
            self._fail(
                f"printed {line.strip()!r} besides a number for each answer; it must print nothing else"
            )
        text = "".join(json.dumps(asdict(one)) + "\n" for one in written)
        threading.Thread(target=_feed, args=(process.stdin, text), daemon=True).start()
        return [self._number(n, len(written)) for n in range(len(written))]

    def _start(self) -> subprocess.Popen[str]:
        # Python programs would otherwise keep what they print until it fills a block, and wait for more to judge.
        surroundings = {**os.environ, "PYTHONUNBUFFERED": "1"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        try:
            process = subprocess.Popen(self._command, **pipes, encoding="utf-8", env=surroundings)
        except OSError as error:
            raise ObjectiveError(
                f"objective.command: {self._command[0]!r} cannot be started ({error.strerror}); correct it"
            ) from error
        threading.Thread(target=_listen, args=(process.stdout, self._lines), daemon=True).start()
        return process

    def _number(self, n: int, count: int) -> float:
        try:
            line = self._lines.get(timeout=self._timeout_s)
        except queue.Empty:
            self._fail(
                f"gave {n} numbers for {count} answers and nothing more in {self._timeout_s:g} s; it must print a line for "
                "each and flush its output"
            )
        if not line:
            self._fail(
                f"ended ({self._end()}) after {n} numbers for {count} answers; its error output says why"
            )
        try:
            number = float(line)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self._fail(f"printed {line.strip()!r}; it must print one finite number a line and nothing else")
        return number

    def _end(self) -> str:
        assert self._process is not None
        try:
            return f"exit status {self._process.wait(_LEAVING_S)}"
        except subprocess.TimeoutExpired:
            return "its output is closed"

    def _fail(self, why: str) -> NoReturn:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        raise ObjectiveError(f"objective.command: {self._name!r} {why}")


def _feed(stream: Any, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        pass  # the program has ended, which its output tells


def _listen(stream: Any, lines: queue.SimpleQueue[str]) -> None:
    """Every line, and last an empty one."""
    with stream:
        for line in stream:
            lines.put(line)
    lines.put("")
