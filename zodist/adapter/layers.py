"""Adapters inside the layers of a model: LoRA, DoRA and IA3 as peft builds them, from addressed numbers.

A of LoRA has the variance of peft's own initialisation, 1 / (3 in), and B is zero (Hu et al. 2021, arXiv:2106.09685);
DoRA's magnitudes are the norms of the base weights' rows (Liu et al. 2024, arXiv:2402.09353); IA3's scales are one (Liu et
al. 2022, arXiv:2205.05638).  So the model is at first what it was.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from zodist import noise
from zodist.config import Adapter, Kind
from zodist.directions import address
from zodist.errors import ModelError


def inject(model: Any, kind: Kind, settings: Adapter, seed: int) -> None:
    """Put a fresh adapter into a model of transformers, in the place of an earlier one."""
    from peft import IA3Config, LoraConfig

    targets = settings.targets or None
    turned = any(isinstance(module, Conv1D) for module in model.modules())
    if kind == "ia3":
        config = IA3Config(
            task_type="CAUSAL_LM",
            target_modules=targets,
            feedforward_modules=[] if targets else None,
            fan_in_fan_out=turned,
        )
    else:
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.rank,
            lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType]
            target_modules=targets,
            use_dora=kind == "dora",
            fan_in_fan_out=turned,
        )
    if getattr(model, "peft_config", None):
        model.delete_adapter("default")
    try:
        with torch.random.fork_rng(devices=[]):  # peft draws numbers, which are replaced below
            model.add_adapter(config)
    except ValueError as error:  # no layer has such a name, or peft has no choice of its own for this model
        first = str(error).strip().splitlines()[0].rstrip(". ")
        raise ModelError(
            f"model.adapter = {kind!r} finds no place in {type(model).__name__}: {first}; set adapter.targets to a regular "
            "expression of layers' names"
        ) from error
    model.requires_grad_(False)
    model.eval()
    key = noise.derive(seed, 0, 0, noise.INITIAL)
    modules = dict(model.named_modules())
    for name, p in model.named_parameters():
        if (".ia3_" if kind == "ia3" else ".lora_") not in name:
            continue
        if ".lora_embedding_" in name:
            raise ModelError(
                f"adapter.targets = {targets!r} names an embedding ({name}); name linear layers alone"
            )
        p.data = _initial(name, p, modules, key).to(p.device)
        p.requires_grad_(True)


def _initial(name: str, p: torch.Tensor, modules: dict[str, Any], key: int) -> torch.Tensor:
    """What a parameter starts from, float32."""
    if ".ia3_" in name:
        return torch.ones(p.shape)
    if ".lora_B." in name:
        return torch.zeros(p.shape)
    if ".lora_magnitude_vector." in name:
        return row_norms(modules[name.partition(".lora_magnitude_vector.")[0]].get_base_layer())
    drawn = noise.numbers(noise.GAUSSIAN, key, address(name), noise.INITIAL, 0, p.numel())
    return torch.from_numpy(drawn * np.float32(1 / math.sqrt(3 * p.shape[1]))).view(p.shape)


def row_norms(layer: Any) -> torch.Tensor:
    """The Euclidean norm of what makes each output of a linear layer, float32 [out].

    Summed in float64 in the order of inputs, so that it has the same bits everywhere.
    """
    weight = layer.weight.detach().float().cpu().numpy()
    weight = weight if isinstance(layer, torch.nn.Linear) else weight.T  # GPT-2 holds it transposed
    total = np.zeros(len(weight))
    for column in weight.T:
        total += np.square(column, dtype=np.float64)
    return torch.from_numpy(np.sqrt(total).astype(np.float32))


def saved(model: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """The adapter as peft has it in files: its configuration, and tensors by name."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, adapter_name="default")
    return model.peft_config["default"], {f"base_model.model.{name}": p for name, p in found.items()}
