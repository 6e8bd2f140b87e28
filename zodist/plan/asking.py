"""What a method asks of its workers in a step: forward passes of a probe and rounds of records."""

from __future__ import annotations

from zodist.compare import rounds_of_steps
from zodist.config import Method
from zodist.errors import ConfigError
from zodist.methods import METHODS


def asked_of(name: str) -> tuple[int, int]:
    """Forward passes of a probe, over all rounds, and rounds of a method's first step with its own defaults.

    Raises ConfigError if there is no such method.
    """
    if name not in METHODS:
        raise ConfigError(f"--method {name!r} is no method; `zodist methods` lists them")
    kind = METHODS[name].settings
    own = {"examples": 1} if "examples" in kind.model_fields else {}
    settings = kind.model_validate(own)
    rounds = next(rounds_of_steps(Method(name=name, settings=settings), 1))
    return max(1, round(sum(rounds) / getattr(settings, "probes", 1))), len(rounds)
