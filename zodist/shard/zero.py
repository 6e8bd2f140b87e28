"""DeepSpeed ZeRO-3 without an optimizer: every parameter cut flat, gathered module by module.

What the settings are for: small parameters would stay gathered (stage3_param_persistence_threshold), layers would stay
because they come again (stage3_max_reuse_distance, stage3_max_live_parameters), and others would be fetched before a leaf
that may never run (stage3_prefetch_bucket_size).
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from zodist.config import Shard
from zodist.shard.files import WeightFiles
from zodist.shard.gathering import gather
from zodist.shard.held import Cut, Held, chunk, places_of, put
from zodist.shard.mapped import mapped
from zodist.shard.mesh import Mesh


def shard(
    model: Any, files: WeightFiles, mesh: Mesh, dtype: torch.dtype, device: torch.device, settings: Shard
) -> Cut:
    """Cut a model of the meta device over the default group; the group's first worker reads, DeepSpeed hands out.

    One tensor at a time is in memory.  With offload = "nvme" the parts are mapped files, which DeepSpeed takes for memory:
    its own swapping to NVMe has to be compiled, and an update would have to swap as well.
    """
    deepspeed = _library(device)
    config = _config(mesh, dtype)
    if settings.offload != "none" and device.type != "cpu":
        config["zero_optimization"]["offload_param"] = {
            "device": "cpu",
            "pin_memory": settings.offload == "cpu",
        }
    places, first = places_of(model), None
    held = []
    for name, at in places.items():
        module, key = at[0]
        shape = tuple(module._parameters[key].shape)  # type: ignore[union-attr]
        whole = torch.empty(shape, dtype=dtype, device=device)
        if mesh.place == 0:
            files.read_(name, shape, 0, whole.view(-1))
        param: Any = put(at, whole)
        del whole
        if first is None:
            alone = torch.nn.Module()
            alone.register_parameter("alone", param)
            deepspeed.zero.Init(
                module=alone, config_dict_or_path=config, dtype=dtype, data_parallel_group=dist.group.WORLD
            )
            first = param
        else:
            first.convert_to_zero_parameters(param_list=[param])
        if settings.offload == "nvme":
            param.ds_tensor.data = mapped(param.ds_tensor, Path(settings.folder))
        start, stop = chunk(param.ds_numel, mesh.size, mesh.place)
        held.append(Held(name, shape, start, param.ds_tensor.data[: stop - start], at[0]))
    engine, *_ = deepspeed.initialize(model=model, config=config)
    return Cut(held, engine)


def _config(mesh: Mesh, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": mesh.size,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": dtype == torch.float16},
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": 0,
            "stage3_max_reuse_distance": 0,
            "stage3_max_live_parameters": 0,
        },
    }


def _library(device: torch.device) -> Any:
    """DeepSpeed, on torch's default group."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ["LOCAL_RANK"] = str(device.index or 0)  # which device DeepSpeed gathers on
    import deepspeed
    import deepspeed.ops

    warnings.filterwarnings(
        "ignore", "`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning
    )
    # An all-reduce inside a host, which nothing here calls; it would be compiled at the first start, with g++ and ninja.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=dist.get_backend())
    if device.type == "cpu":
        deepspeed.comm.comm.cdb.all_gather_function = gather
    return deepspeed
