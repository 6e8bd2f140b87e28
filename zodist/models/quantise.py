"""Frozen weights in 8 bits: the linear layers of which nothing is trained, by torchao.

Each row of a matrix becomes 8-bit integers and a scale, and is multiplied by activations of the model's own type.  The base
of an adapter takes half the memory of 16 bits so, or a quarter of 32.  Trained weights, embeddings and the output layer stay
as they are.  A run is replayed without any of this: losses are all that it touches.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from zodist.config import Quantise
from zodist.directions import Param, storage_of
from zodist.errors import ModelError


def quantise_(model: Any, params: Sequence[Param], kind: Quantise) -> None:
    """Store the linear layers without trained parameters in 8 bits, in place; those that are so already stay.

    Raises ModelError where torchao is not installed, or there is no such layer.
    """
    if kind == "none":
        return
    if importlib.util.find_spec("torchao") is None:
        raise ModelError(
            f"model.quantise = {kind!r} needs the package torchao; run: pip install 'zodist[quantise]'"
        )
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    trained, output = {p.storage for p in params}, model.get_output_embeddings()
    frozen = {
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and module is not output
        and not any(storage_of(p) in trained for p in module.parameters())
    }
    if not frozen:
        raise ModelError(
            f"model.quantise = {kind!r} stores frozen weights, and every linear layer is trained; set model.adapter, or "
            "train less with model.train"
        )
    whole = {module for module in frozen if type(module.weight.data) is torch.Tensor}
    quantize_(model, Int8WeightOnlyConfig(), filter_fn=lambda module, _: module in whole)
