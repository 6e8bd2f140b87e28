"""zodist: fine-tune language models on many nodes with forward passes and a few bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zodist.api import Trainer, Tuned, fine_tune
    from zodist.run import Rebuilt, Taken, rebuild

__version__ = "0.1.0"
__all__ = ["Rebuilt", "Taken", "Trainer", "Tuned", "fine_tune", "rebuild"]


def __getattr__(name: str) -> Any:
    """What zodist.api has, imported when it is asked for: torch and transformers take seconds."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("zodist.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
