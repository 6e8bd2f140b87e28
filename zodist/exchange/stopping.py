"""Being asked to stop: at SIGUSR1 or SIGTERM a run finishes its step, writes a snapshot and leaves.

A signal reaches the workers of a run at different moments, or only one of them, and all must stop after the same step.
So a handler does nothing but take a note; the note travels as one bit of the next frame that this worker sends
(frames.py), and every worker acts on what the frames of all have told it.  No message is added.
"""

from __future__ import annotations

import signal
from types import FrameType

STATUS = 75  # of a process that has stopped as asked: EX_TEMPFAIL of sysexits.h, try again later
_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
_received: list[str] = []  # of this process, as signals are


def listen() -> None:
    """Take note of the signals from now on; before this, and in other commands, they end the process."""
    for number in _SIGNALS:
        signal.signal(number, _note)


def asked() -> str:
    """The first signal that has come, by name; empty if none has."""
    return _received[0] if _received else ""


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(signal.Signals(number).name)
