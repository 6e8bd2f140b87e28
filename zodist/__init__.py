"""zodist: fine-tune language models on many nodes with forward passes and a few bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zodist.api import Trainer, Tuned, fine_tune
    from zodist.run import Rebuilt, Taken, rebuild

__version__ = "0.1.0"
__all__ = ["Rebuilt", "Taken", "Trainer", "Tuned", "fine_tune", "rebuild"]


_ROOMS = {
    "Trainer": "api",
    "Tuned": "api",
    "fine_tune": "api",
    "Rebuilt": "run",
    "Taken": "run",
    "rebuild": "run",
}


def __getattr__(name: str) -> Any:
    """What zodist.api and zodist.run hand on, imported when it is asked for: torch and transformers take seconds."""
    if name in _ROOMS:
        from importlib import import_module

        return getattr(import_module(f"zodist.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
