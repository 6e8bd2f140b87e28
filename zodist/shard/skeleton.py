"""A model without weights: its modules and buffers, and parameters that have a shape and no memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from zodist.config import PACKAGED
from zodist.errors import ModelError
from zodist.models import is_masked, packaged, refusal
from zodist.shard.files import WeightFiles

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _EmptyOnMeta(TorchFunctionMode):
    """torch.empty, which modules make their parameters with, takes no memory.

    accelerate moves a parameter to the meta device once it is registered: until then an embedding has its room, and a
    limit of memory is broken by a model of which no part is ever used.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func is torch.empty and given.get("device") is None:
            given["device"] = "meta"
        return func(*args, **given)


def skeleton(
    name: str, dtype: torch.dtype, attention: str
) -> tuple[Any, PreTrainedTokenizerBase, WeightFiles]:
    """The model on the meta device but for its buffers, its tokenizer, and the files that its weights are in.

    Raises ModelError if the model cannot be found, or its files not be read in parts.
    """
    import transformers
    from accelerate import init_empty_weights

    folder = _folder(name)
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        if is_masked(config) or refusal(config):
            raise ValueError(
                f"shards are cut of decoder-only language models, not of {type(config).__name__}"
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        with init_empty_weights(include_buffers=False), _EmptyOnMeta():
            model = transformers.AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention
            )
    except Exception as error:  # the library raises OSError, ValueError, ImportError, KeyError, RuntimeError
        raise ModelError(
            f"{name!r} cannot be set up as a language model: {str(error).splitlines()[0]}; check the folder or the name"
        ) from error
    for module in model.modules():
        for key, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:  # one that the module left empty
                setattr(module, key, torch.empty_like(buffer, device="cpu"))
    model.tie_weights()  # which the parameters' way to the meta device undid
    model.requires_grad_(False)
    model.config.use_cache = False
    return model.eval(), tokenizer, WeightFiles(folder, name, model.base_model_prefix)


def _folder(name: str) -> Path:
    """Where the files lie: the folder itself, or that of the hub's cache."""
    place = packaged() if name == PACKAGED else Path(name).expanduser()
    if place.is_dir():
        return place
    if name.startswith(("/", ".", "~")):
        raise ModelError(
            f"the model folder {name!r} does not exist; name an existing folder, or a model of the hub"
        )
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
    try:
        found = Path(snapshot_download(name, allow_patterns=patterns))
        if not any(found.glob("*.safetensors")):
            found = Path(snapshot_download(name, allow_patterns=[*patterns, "pytorch_model*.bin"]))
        return found
    except Exception as error:  # of the network, the cache, or the hub
        raise ModelError(
            f"the model {name!r} cannot be fetched: {str(error).splitlines()[0]}; check the name and the network, or "
            "give a folder"
        ) from error
