"""A configuration as it may leave this machine: what decides the run, without folders, addresses and the place of a key.

Nothing that is left out or shortened belongs to a run's identity, so the journal's header fits as before.
"""

from __future__ import annotations

from pathlib import Path

from zodist.config.names import IN_PYTHON, PACKAGED
from zodist.config.settings import Config, Exchange


def portable(config: Config) -> Config:
    """The configuration with "runs/NAME" as its folder, file names alone, and nothing of the exchange.

    A model that is a folder here becomes "./NAME": said to be a folder, but not where.
    """
    c = config
    run = c.run.model_copy(update={"folder": f"runs/{Path(c.run.folder).name}"})
    model = c.model.model_copy(update={"name": c.model.name if on_hub(c) else _model_name(c)})
    task = c.task.model_copy(
        update={
            "name": Path(c.task.name).name if c.task.name.endswith(".toml") else c.task.name,
            "files": {split: Path(file).name for split, file in c.task.files.items()},
        }
    )
    exchange = Exchange(digest_every=c.exchange.digest_every)
    shard = c.shard.model_copy(update={"folder": ""})
    parts = {"run": run, "model": model, "task": task, "exchange": exchange, "shard": shard}
    return c.model_copy(update=parts)


def on_hub(config: Config) -> bool:
    """Whether the base model is named as one of the Hugging Face hub."""
    name = config.model.name
    local = name == PACKAGED or name.startswith((IN_PYTHON, "/", ".", "~"))
    return not local and not Path(name).is_dir()


def _model_name(config: Config) -> str:
    name = config.model.name
    return name if name == PACKAGED or name.startswith(IN_PYTHON) else f"./{Path(name).name}"
