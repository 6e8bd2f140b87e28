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

from zodist.shard.files import WeightFiles
from zodist.shard.gathering import Gather
from zodist.shard.held import Cut, Held, Place, chunk, places_of, put
from zodist.shard.mesh import Mesh
from zodist.shard.settings import Shard


def shard(
    model: Any, files: WeightFiles, mesh: Mesh, dtype: torch.dtype, device: torch.device, settings: Shard
) -> Cut:
    """Cut a model of the meta device over the default group, and read this worker's rows of every parameter.

    Each layer of a list of layers is gathered for its own forward; what is in none of them (embeddings, last norm, head) for
    the whole forward, since the ends of a model may be tied.
    """
    places = places_of(model)
    bare = {name: module._parameters[key] for name, [(module, key), *_] in places.items()}
    names = {
        id(value): name for name, value in bare.items()
    }  # ``bare`` keeps them, or an id could be another's later
    group = init_device_mesh(device.type, (mesh.size,))
    units = list(_layers(model))
    for unit in [*units, model]:
        for value in list(unit.parameters()):
            name = names.get(id(value))  # None: a unit within this one has it
            if name is not None:
                put(places[name], _rows(name, tuple(value.shape), files, mesh, dtype, device))
        if mesh.size > 1:  # in a group of one, what it gathers has no version in torch's inference mode
            cut: Any = fully_shard(unit, mesh=group, reshard_after_forward=True)
            if device.type == "cpu" and hasattr(cut, "set_custom_all_gather"):  # torch 2.9
                cut.set_custom_all_gather(Gather())
    return Cut([_held(name, mesh, at) for name, at in places.items()])


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules: which inner ones run, such as experts, may depend on the batch."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _layers(child)


def _rows(
    name: str,
    shape: tuple[int, ...],
    files: WeightFiles,
    mesh: Mesh,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """A tensor of the whole shape whose own rows are read; memory for the others is never touched."""
    first, stop = (row * math.prod(shape[1:]) for row in chunk(shape[0], mesh.size, mesh.place))
    whole = torch.empty(shape, dtype=dtype, device=device)
    files.read_(name, shape, first, whole.view(-1)[first:stop])
    return whole


def _held(name: str, mesh: Mesh, places: list[Place]) -> Held:
    module, key = places[0]
    value = module._parameters[key]
    assert value is not None  # every place was found by its value
    shape, own = tuple(value.shape), value.to_local() if isinstance(value, DTensor) else value
    first, _ = chunk(shape[0], mesh.size, mesh.place)
    return Held(name, shape, first * math.prod(shape[1:]), own.detach().view(-1), places[0])
