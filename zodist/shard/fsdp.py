"""torch's FSDP2: every parameter cut by rows, gathered layer by layer (torch.distributed.fsdp.fully_shard)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from zodist.config import Shard
from zodist.shard.files import WeightFiles
from zodist.shard.gathering import Gather
from zodist.shard.held import Cut, Held, Place, chunk, places_of, put
from zodist.shard.mesh import Mesh


def shard(
    model: Any, files: WeightFiles, mesh: Mesh, dtype: torch.dtype, device: torch.device, settings: Shard
) -> Cut:
    """Cut a model of the meta device over the default group, and read this worker's rows of every parameter.

    Each layer of a list of layers is gathered for its own forward; what is in none of them (embeddings, last norm, head) for
    the whole forward, since the ends of a model may be tied.  There is memory for the own rows alone.
    """
    places = places_of(model)
    if mesh.size > 1:  # in a group of one, what it gathers has no version in torch's inference mode
        group = init_device_mesh(device.type, (mesh.size,))
        for unit in [*_layers(model), model]:
            cut: Any = fully_shard(unit, mesh=group, reshard_after_forward=True)
            if device.type == "cpu" and hasattr(cut, "set_custom_all_gather"):  # torch 2.9
                cut.set_custom_all_gather(Gather())
        _make_room(model, device)
    else:
        for at in places.values():
            module, key = at[0]
            put(at, torch.empty_like(module._parameters[key], device=device))  # type: ignore[arg-type]
    return Cut([_read(name, files, mesh, at) for name, at in places.items()])


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules: which inner ones run, such as experts, may depend on the batch."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _layers(child)


def _make_room(model: nn.Module, device: torch.device) -> None:
    """Memory for the own rows of what is on the meta device, for a tied parameter once; as nn.Module.to_empty does it."""
    made: dict[int, torch.Tensor] = {}

    def room(value: torch.Tensor) -> torch.Tensor:
        if not value.is_meta:
            return value
        return made.setdefault(id(value), torch.empty_like(value, device=device))

    model._apply(room)


def _read(name: str, files: WeightFiles, mesh: Mesh, places: list[Place]) -> Held:
    module, key = places[0]
    value = module._parameters[key]
    assert value is not None  # every place was found by its value
    shape, own = tuple(value.shape), value.to_local() if isinstance(value, DTensor) else value
    first = chunk(shape[0], mesh.size, mesh.place)[0] * math.prod(shape[1:])
    held = Held(name, shape, first, own.detach().view(-1), places[0])
    files.read_(name, shape, first, held.own)
    return held
