"""An adapter beside a model: attached before a run, saved after it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zodist.config import Adapter, Kind
from zodist.errors import ModelError

if TYPE_CHECKING:
    from zodist.directions import Param

VIRTUAL = ("prefix", "prompt")


def attached(model: Any, kind: Kind, settings: Adapter, seed: int) -> Any:
    """The model with a fresh adapter, whose parameters alone require a gradient; the model itself if kind is "".

    Raises ModelError where peft is not installed, or the model has no place for the adapter.
    """
    if not kind:
        return model
    from zodist.models import Masked

    if importlib.util.find_spec("peft") is None:
        raise ModelError(f"model.adapter = {kind!r} needs the package peft; run: pip install 'zodist[peft]'")
    if isinstance(model, Masked):
        raise ModelError(
            f"model.adapter = {kind!r} is for causal language models; set model.adapter = '', and model.train to train less"
        )
    if kind in VIRTUAL:
        from zodist.adapter.virtual import Virtual

        return Virtual(model, kind, settings.tokens, seed)
    from zodist.adapter.layers import inject

    inject(model, kind, settings, seed)
    return model


def save(out: Path, model: Any, kind: Kind, settings: Adapter, params: Sequence[Param]) -> None:
    """Write what makes an adapter for peft: adapter_config.json and adapter_model.safetensors.

    model: the base model that an adapter was attached to.  params: the adapter's, with their weights.
    """
    from safetensors.torch import save_file

    if kind in VIRTUAL:
        from zodist.adapter.virtual import saved

        config, tensors = saved(model, kind, settings.tokens, params[0])
    else:
        from zodist.adapter.layers import saved

        config, tensors = saved(model)
    config.inference_mode = True
    config.save_pretrained(str(out))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
