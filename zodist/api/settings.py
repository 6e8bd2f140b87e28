"""From the arguments of a call to the configuration of a run, checked as a file is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zodist.config import IN_PYTHON, Config, Places, validate
from zodist.errors import ConfigError, ModelError
from zodist.models import DTYPES

WHERE = "zodist.fine_tune"
_OURS = {
    "run.folder",
    "run.threads",
    "model.name",
    "model.device",
    "model.dtype",
    "model.attention",
    "exchange.kind",
}


# What says how to run a language model, or which examples a task draws: a loss function sees to that itself.
OF_LANGUAGE = ("task.", "adapter.", "model.adapter", "model.attention", "batch.cache_frozen", "batch.packed")
OF_LANGUAGE += ("batch.examples_per_forward", "batch.probes_per_forward", "batch.activation_mib")
OF_LANGUAGE += ("objective.",)
OF_DRAWING = ("task.",)


def configure(given: Mapping[str, Any], settings: Mapping[str, Any], without: tuple[str, ...] = ()) -> Config:
    """The configuration of "section.key" -> value, once from arguments and once as the caller wrote them.

    without: beginnings of keys that would have no effect in this run.
    Raises ConfigError, as for a file, with the nearest right key or the allowed values.
    """
    tables: dict[str, dict[str, Any]] = {}
    for key, value in {"output.plot": False, **given, **settings}.items():
        section, dot, name = key.partition(".")
        if not (dot and section and name) or "." in name:
            raise ConfigError(
                f"{WHERE}: settings has {key!r}; a key reads 'section.key', such as 'method.eps'"
            )
        if key in _OURS and key in settings or section == "shard":
            raise ConfigError(
                f"{WHERE}: settings has {key!r}, which follows from the model and the other arguments"
            )
        if key in settings and key.startswith(without):
            raise ConfigError(
                f"{WHERE}: settings has {key!r}, which has no effect on what was given as task; leave it out"
            )
        tables.setdefault(section, {})[name] = value
    return validate(tables, Path("python.toml"), Places(WHERE, ""))


def model_settings(model: torch.nn.Module, train: str) -> dict[str, Any]:
    """What [model] would have to say about a model that is in memory."""
    first = next((p for p in model.parameters()), None)
    if first is None:
        raise ModelError(f"{WHERE}: {type(model).__name__} has no parameters")
    dtypes = {kind: name for name, kind in DTYPES.items()}
    dtype = next((dtypes[p.dtype] for p in model.parameters() if p.dtype in dtypes), "float32")
    found = {
        "model.name": name_of(model),
        "model.device": first.device.type,
        "model.dtype": dtype,
        "model.train": train or _unfrozen(model),
    }
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return {**found, "model.attention": attention} if attention else found


def _unfrozen(model: torch.nn.Module) -> str:
    """An expression for the parameters that require a gradient, where some do and others do not; else ""."""
    wanted = [name for name, p in model.named_parameters() if p.requires_grad]
    if len(wanted) in (0, sum(1 for _ in model.parameters())):
        return ""
    return f"^(?:{'|'.join(map(re.escape, wanted))})$"


def name_of(model: torch.nn.Module) -> str:
    """Where transformers found the model; else the name of its class, marked as something that no file has."""
    return getattr(model, "name_or_path", "") or f"{IN_PYTHON}{type(model).__qualname__}"
