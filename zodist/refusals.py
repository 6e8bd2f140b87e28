"""Which update rules a method's settings go with: asked of the settings themselves, when a run's are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zodist.config import Config


def contradiction(config: Config) -> str:
    """Why rule.name does not go with [method], as a sentence; "" if it does."""
    from zodist.methods import (
        Settings,
    )  # here, because it costs time and settings are read first; it is loaded by now

    settings = config.method.settings
    return settings.refuses(config.rule.name) if isinstance(settings, Settings) else ""
