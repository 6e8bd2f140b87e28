"""Settings that do not go together, where no single section could tell; those of a section stand in its own file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zodist.config import adapter, objective, shard
from zodist.step import LEAST_LANES

if TYPE_CHECKING:
    from zodist.config.settings import Config


def contradiction(config: Config) -> str:
    """The first contradiction in a configuration, as a sentence; "" if there is none."""
    parts = (
        _refused,
        _clipping,
        shard.contradiction,
        adapter.contradiction,
        _stopping,
        objective.contradiction,
    )
    return next((why for part in parts if (why := part(config))), "")


def _refused(config: Config) -> str:
    """Why rule.name does not go with [method], as the method's own settings say."""
    from zodist.methods import Settings  # here, because it costs time and is loaded by now

    settings = config.method.settings
    return settings.refuses(config.rule.name) if isinstance(settings, Settings) else ""


def _clipping(config: Config) -> str:
    """Which setting does not go with rule.clip, as a sentence; "" if none."""
    clip, lanes = config.rule.clip, config.batch.data_lanes
    if clip in ("trimmed", "median") and lanes < LEAST_LANES:
        need = f"compares a probe's data lanes; set batch.data_lanes = {LEAST_LANES} or more, not {lanes}"
        return f"rule.clip = {clip!r} {need}, or rule.clip = 'mad'"
    return ""


def _stopping(config: Config) -> str:
    """Which setting does not go with early stopping, as a sentence; "" if none."""
    if not config.output.patience:
        return ""
    if not config.output.evaluate_every:
        return "output.patience counts evaluations; set output.evaluate_every, or output.patience = 0"
    if config.exchange.kind == "store":
        return "output.patience needs workers that end together, not exchange.kind = 'store'; set it to 0"
    return ""
