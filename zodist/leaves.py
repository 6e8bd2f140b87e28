"""How each kind of leaf module runs at several points in one forward, without ever writing to its weights.

The rows of the batch are stacked point-major, [points * rows, ...].  A leaf perturbs its own parameters into the
frame's scratch for the time of its call: base noise once, one copy per point.  What cannot be done exactly is refused
by name when the evaluator is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from zodist.direction import Cache, Combination, Laid, Law
from zodist.errors import ModelError
from zodist.matrix import LaidLowRank
from zodist.params import Param

# Numbers of a large matrix at a time: on the CPU they stay in cache between noise and GEMM.
PIECE, CUDA_PIECE = 1 << 21, 1 << 26

Forward = Callable[..., torch.Tensor]


@dataclass
class Frame:
    """What one forward is about: its points, its scratch, what was seen.  One per evaluator, reset for each forward."""

    laws: Mapping[int, Law | None]
    parallel: bool
    device: torch.device = torch.device("cpu")
    points: Sequence[Combination] = ()
    columns: torch.Tensor | None = None
    stack: int = 0
    active: bool = False
    shares: torch.Tensor | None = None
    owners: torch.Tensor | None = None
    calls: dict[str, int] = field(default_factory=dict)
    known: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    _cache: Cache = field(default_factory=dict)
    _laid: dict[int, Laid] = field(default_factory=dict)
    _scratch: dict[torch.dtype, torch.Tensor] = field(default_factory=dict)

    def start(
        self,
        points: Sequence[Combination],
        stack: int,
        columns: torch.Tensor | None,
        shares: torch.Tensor | None = None,
        owners: torch.Tensor | None = None,
    ) -> None:
        """Begin a forward with ``stack`` on dim 0 at these points (none: at the weights); equal points keep their tables.

        shares: where every example has a point of its own, how much of it in each copy of the batch: +1, -1, or 0 for the
        weights, float32 [copies * examples]; number j is at point j mod the number of points.  owners: which example a token
        belongs to, int64 [tokens], where dim 0 has the copies alone; None: where it has the examples.
        """
        self.shares, self.owners = shares, owners
        if points is not self.points:
            self._cache.clear()
            self._laid.clear()
        self.points, self.stack, self.columns, self.active = points, stack, columns, True
        self.calls.clear()

    def laid(self, param: Param) -> Laid | None:
        """The points' directions for one parameter; None where the weights themselves will do."""
        found = self._laid.get(param.id)
        if found is None:
            law = self.laws.get(param.id)
            if law is None:
                return None
            found = self._laid[param.id] = law.lay(param, self.points, self._cache)
        return None if found.still else found

    def scratch(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """A buffer of this shape; the next call with the same dtype overwrites it."""
        size = int(np.prod(shape))
        held = self._scratch.get(dtype)
        if held is None or held.numel() < size:
            held = self._scratch[dtype] = torch.empty(size, dtype=dtype, device=self.device)
        return held[:size].view(shape)

    @property
    def piece(self) -> int:
        """How many numbers of a large matrix to perturb at a time."""
        return PIECE if self.device.type == "cpu" else CUDA_PIECE

    def know(self, ids: torch.Tensor) -> torch.Tensor:
        """The model's ids, int64 on the CPU, on the device; which are distinct is found here, where nothing waits for it."""
        moved = ids.to(self.device, non_blocking=True)
        if moved is not ids:
            index, inverse = (
                x.to(self.device, non_blocking=True) for x in torch.unique(ids, return_inverse=True)
            )
            self.known = moved, index, inverse
        return moved

    def distinct(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The distinct ids, and which of them each id is."""
        if self.known is not None and self.known[0].data_ptr() == ids.data_ptr():
            return self.known[1], self.known[2].view(ids.shape)
        return torch.unique(ids, return_inverse=True)

    def whole(self, param: Param, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A parameter at every point: [points, *shape], in scratch."""
        return self.span(param, 0, param.weights.numel(), dtype).view(len(self.points), *param.shape)

    def span(self, param: Param, start: int, stop: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Numbers start .. stop - 1 of a parameter at every point: [points, stop - start], in scratch."""
        out = self.scratch(dtype or param.model.dtype, len(self.points), stop - start)
        laid = self.laid(param)
        if laid is None:
            return out.copy_(param.weights[start:stop])
        laid.write_(param, start, stop, out, parallel=self.parallel)
        return out

    def rows(self, param: Param, index: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Some rows of a matrix at every point: [points, rows, width].  Rows not named are never touched."""
        dtype, laid = dtype or param.model.dtype, self.laid(param)
        if laid is None:
            return param.model.view(param.shape)[index].to(dtype).expand(len(self.points), -1, -1)
        out = self.scratch(dtype, len(self.points), len(index), param.shape[-1])
        laid.rows_(param, index, out, parallel=self.parallel)
        return out


class Lookup(TorchFunctionMode):
    """Inside an embedding's own forward, look rows up by ``find`` instead of in the weights."""

    def __init__(self, module: nn.Embedding, find: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """find: gives the rows, [..., width], of ids [...]."""
        super().__init__()
        self.module, self.find = module, find

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: D105
        kwargs = kwargs or {}
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if func is not F.embedding or weight is not self.module.weight:
            return func(*args, **kwargs)
        return self.find(args[0])


def embedding(frame: Frame, module: nn.Embedding, own: dict[str, Param], path: str) -> Forward:
    """Look up rows: only those that occur are perturbed.  What a subclass does around the look-up stays its own."""
    if module.max_norm is not None:
        raise ModelError(
            f"{path}: an embedding with max_norm writes to its weights; zodist cannot perturb it"
        )
    original, param = module.forward, own["weight"]

    def find(ids: torch.Tensor) -> torch.Tensor:
        points, stack = len(frame.points), frame.stack
        if ids.shape[0] not in (1, stack):
            raise ModelError(f"{path}: {stack} rows expected, its input is {tuple(ids.shape)}")
        index, inverse = frame.distinct(ids)
        rows = frame.rows(param, index)
        own = inverse.expand(stack, *ids.shape[1:]).reshape(points, -1)
        offsets = torch.arange(points, device=ids.device) * len(index)
        return rows.flatten(0, 1)[own + offsets[:, None]].view(stack, *ids.shape[1:], -1)

    lookup = Lookup(module, find)

    def forward(*args, **kwargs):
        with lookup:
            return original(*args, **kwargs)

    return forward


def _stack(frame: Frame, x: torch.Tensor, path: str) -> torch.Tensor:
    """[points * rows, ..., in] as [points, rows', in], contiguous (a strided slice would go through a slow product)."""
    points = len(frame.points)
    if x.shape[0] % points:
        raise ModelError(f"{path}: cannot be split into {points} points, its input is {tuple(x.shape)}")
    return x.reshape(points, -1, x.shape[-1]).contiguous()


def linear(frame: Frame, module: nn.Linear, own: dict[str, Param], path: str) -> Forward:
    """A product with a matrix of its own at each point, as one batched GEMM; large matrices in cache-sized pieces.

    A low-rank direction is never added to the weights: y = x W^T + (x right^T) left^T.
    """
    weight, bias, out_features = own.get("weight"), own.get("bias"), module.out_features

    def forward(x: torch.Tensor) -> torch.Tensor:
        points, stacked = len(frame.points), _stack(frame, x, path)
        laid = None if weight is None else frame.laid(weight)
        if weight is None or laid is None:
            y = stacked @ module.weight.t()
        elif isinstance(laid, LaidLowRank):
            y = (stacked @ module.weight.t()).baddbmm_(*laid.times(stacked, transpose=True))
        elif weight.weights.numel() <= 2 * frame.piece:
            y = torch.bmm(stacked, frame.whole(weight).transpose(1, 2))
        else:
            step = max(1, frame.piece // module.in_features)
            y = x.new_empty(points, stacked.shape[1], out_features)
            for row in range(0, out_features, step):
                stop = min(row + step, out_features)
                span = frame.span(weight, row * module.in_features, stop * module.in_features)
                y[:, :, row:stop] = torch.bmm(stacked, span.view(points, stop - row, -1).transpose(1, 2))
        if bias is not None:
            y.add_(frame.whole(bias).unsqueeze(1))
        elif module.bias is not None:
            y.add_(module.bias)
        return y.view(*x.shape[:-1], -1)

    return forward


def conv1d(frame: Frame, module: Conv1D, own: dict[str, Param], path: str) -> Forward:
    """GPT-2's linear layer: weight [in, out]."""
    weight, bias = own.get("weight"), own.get("bias")

    def forward(x: torch.Tensor) -> torch.Tensor:
        stacked = _stack(frame, x, path)
        laid = None if weight is None else frame.laid(weight)
        if weight is None or laid is None:
            y = stacked @ module.weight
        elif isinstance(laid, LaidLowRank):
            y = (stacked @ module.weight).baddbmm_(*laid.times(stacked, transpose=False))
        else:
            y = torch.bmm(stacked, frame.whole(weight))
        y.add_(module.bias if bias is None else frame.whole(bias).unsqueeze(1))
        return y.view(*x.shape[:-1], -1)

    return forward


def norm(frame: Frame, module: nn.Module, own: dict[str, Param], path: str) -> Forward:
    """Any normalisation over the last axis: its own forward, once per point.

    Its few weights are perturbed in float32, since in 16 bits a weight near 1 would round eps away.
    """
    original = module.forward
    held = {name: p for name, p in module._parameters.items() if p is not None}

    def forward(x: torch.Tensor) -> torch.Tensor:
        points = len(frame.points)
        stacked = x.view(points, -1, *x.shape[1:])
        values = {
            name: frame.whole(own[name], torch.float32).clone()
            if name in own
            else p.float().expand(points, *p.shape)
            for name, p in held.items()
        }
        outputs = []
        try:
            for p in range(points):
                module._parameters.update({name: value[p] for name, value in values.items()})  # type: ignore[arg-type]
                outputs.append(original(stacked[p]).to(x.dtype))
        finally:
            module._parameters.update(held)
        return torch.cat(outputs)

    return forward


def head(frame: Frame, module: nn.Linear, own: dict[str, Param], path: str, inner: Forward) -> Forward:
    """The output projection: only the vocabulary entries that enter the loss are computed (``frame.columns``).

    These few are computed in float32: a logit of 16 in bfloat16 is rounded by up to 1/16, which is more than a perturbation
    changes in the loss of one example.
    """
    weight, bias = own.get("weight"), own.get("bias")

    def forward(x: torch.Tensor) -> torch.Tensor:
        if frame.columns is None:
            return inner(x) if own and frame.points else F.linear(x.contiguous(), module.weight, module.bias)
        columns, points = frame.columns, max(1, len(frame.points))
        stacked = (
            x.reshape(points, -1, x.shape[-1]).float().contiguous()
        )  # a strided slice has sums of other orders
        if weight is None or not frame.points:
            chosen = module.weight[columns].float().expand(points, -1, -1)
        else:
            chosen = frame.rows(weight, columns, torch.float32)
        y = torch.bmm(stacked, chosen.transpose(1, 2))
        if module.bias is not None:
            here = (
                module.bias[columns]
                if bias is None or not frame.points
                else frame.whole(bias, torch.float32)[:, None, columns]
            )
            y.add_(here)
        return y.view(*x.shape[:-1], -1)

    return forward


def kind_of(module: nn.Module) -> Callable[..., Forward] | None:
    """How a leaf of this type is perturbed; None where zodist does not know it to be exact."""
    if isinstance(module, nn.Embedding):
        return embedding
    if type(module) is nn.Linear:
        return linear
    if type(module) is Conv1D:
        return conv1d
    if type(module) is nn.LayerNorm or type(module).__name__.endswith("RMSNorm"):
        return norm
    return None
