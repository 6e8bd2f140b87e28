"""How each kind of leaf module runs at several points in one forward, without ever writing to its weights.

The rows of the batch are stacked point-major, [points * rows, ...]; those of points with batches of unequal length stand
end to end, [1, tokens, ...].  A leaf perturbs its own parameters into the frame's scratch for the time of its call: base
noise once, one copy per point.  What cannot be done exactly is refused by name when the evaluator is made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from zodist.directions import LaidLowRank, Param
from zodist.errors import ModelError
from zodist.evaluator.frame import Frame
from zodist.evaluator.ragged import Ragged

Forward = Callable[..., torch.Tensor]


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
        split = frame.split(ids.shape[1], path)
        if split is not None:
            return rows.flatten(0, 1)[inverse + split.owner * len(index)]
        own = inverse.expand(stack, *ids.shape[1:]).reshape(points, -1)
        offsets = torch.arange(points, device=ids.device) * len(index)
        return rows.flatten(0, 1)[own + offsets[:, None]].view(stack, *ids.shape[1:], -1)

    lookup = Lookup(module, find)

    def forward(*args, **kwargs):
        with lookup:
            return original(*args, **kwargs)

    return forward


def _stack(frame: Frame, x: torch.Tensor, path: str) -> tuple[torch.Tensor, Ragged | None]:
    """[points * rows, ..., in] as [points, rows', in], contiguous (a strided slice would go through a slow product).

    Where the points' tokens stand end to end, [tokens, in], and how they are split.
    """
    points = len(frame.points)
    if frame.ragged:
        return x.reshape(-1, x.shape[-1]), frame.split(x.shape[:-1].numel(), path)
    if x.shape[0] % points:
        raise ModelError(f"{path}: cannot be split into {points} points, its input is {tuple(x.shape)}")
    return x.reshape(points, -1, x.shape[-1]).contiguous(), None


def _times(x: torch.Tensor, matrices: torch.Tensor, split: Ragged | None) -> torch.Tensor:
    """What ``_stack`` gives times a matrix for each point, [points, in, out]."""
    return torch.bmm(x, matrices) if split is None else split.products(x, matrices)


def _add_thin_(
    y: torch.Tensor, x: torch.Tensor, laid: LaidLowRank, split: Ragged | None, transpose: bool
) -> torch.Tensor:
    """Add x times each point's low-rank matrix to y."""
    if split is None:
        return y.baddbmm_(*laid.times(x, transpose=transpose))
    for (points, own), (_, out) in zip(split.parts(x), split.parts(y), strict=True):
        out.baddbmm_(*laid.times(own, transpose=transpose, start=points.start))
    return y


def _add_vector_(y: torch.Tensor, vectors: torch.Tensor, split: Ragged | None) -> torch.Tensor:
    """Add each point's vector, [points, out], to y."""
    return y.add_(vectors.unsqueeze(1) if split is None else vectors[split.owner])


def linear(frame: Frame, module: nn.Linear, own: dict[str, Param], path: str) -> Forward:
    """A product with a matrix of its own at each point, as one batched GEMM; large matrices in cache-sized pieces.

    A low-rank direction is never added to the weights: y = x W^T + (x right^T) left^T.
    """
    weight, bias, out_features = own.get("weight"), own.get("bias"), module.out_features
    small = weight is None or module.in_features * out_features <= 2 * frame.piece
    biased = module.bias is not None

    def forward(x: torch.Tensor) -> torch.Tensor:
        stacked, split = _stack(frame, x, path)
        laid = None if weight is None else frame.laid(weight)
        if weight is None or laid is None:
            y = stacked @ module.weight.t()
        elif isinstance(laid, LaidLowRank):
            y = _add_thin_(stacked @ module.weight.t(), stacked, laid, split, transpose=True)
        elif small:
            y = _times(stacked, frame.whole(weight).transpose(1, 2), split)
        else:
            step, points = max(1, frame.piece // module.in_features), len(frame.points)
            y = x.new_empty(*stacked.shape[:-1], out_features)
            for row in range(0, out_features, step):
                stop = min(row + step, out_features)
                span = frame.span(weight, row * module.in_features, stop * module.in_features)
                y[..., row:stop] = _times(stacked, span.view(points, stop - row, -1).transpose(1, 2), split)
        if bias is not None:
            _add_vector_(y, frame.whole(bias), split)
        elif biased:
            y.add_(module.bias)
        return y.view(*x.shape[:-1], -1)

    return forward


def conv1d(frame: Frame, module: Conv1D, own: dict[str, Param], path: str) -> Forward:
    """GPT-2's linear layer: weight [in, out]."""
    weight, bias = own.get("weight"), own.get("bias")

    def forward(x: torch.Tensor) -> torch.Tensor:
        stacked, split = _stack(frame, x, path)
        laid = None if weight is None else frame.laid(weight)
        if weight is None or laid is None:
            y = stacked @ module.weight
        elif isinstance(laid, LaidLowRank):
            y = _add_thin_(stacked @ module.weight, stacked, laid, split, transpose=False)
        else:
            y = _times(stacked, frame.whole(weight), split)
        if bias is None:
            y.add_(module.bias)
        else:
            _add_vector_(y, frame.whole(bias), split)
        return y.view(*x.shape[:-1], -1)

    return forward


def multiplies(module: nn.Module) -> bool:
    """Whether a normalisation multiplies by its weight as it stands, so that it may have one for every point at once.

    Torch's own have it inside a kernel that takes a single one.
    """
    return type(module) not in (nn.LayerNorm, nn.RMSNorm)


def norm(frame: Frame, module: nn.Module, own: dict[str, Param], path: str) -> Forward:
    """Any normalisation over the last axis: its own forward, for all points at once or once per point.

    Its few weights are perturbed in float32, since in 16 bits a weight near 1 would round eps away.
    """
    original, at_once = module.forward, multiplies(module)

    def given(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parameters at every point, float32 [points, size]."""
        points = len(frame.points)
        if len(own) == len(held) == 1:
            return {n: frame.whole(p, torch.float32) for n, p in own.items()}
        found = {n: p.float().expand(points, *p.shape) for n, p in held.items() if n not in own}
        return found | {n: frame.whole(p, torch.float32).clone() for n, p in own.items()}

    def forward(x: torch.Tensor) -> torch.Tensor:
        held = {name: p for name, p in module._parameters.items() if p is not None}
        points, values = len(frame.points), given(held)  # type: ignore[arg-type]
        axis = _token_axis(frame, x)
        split = frame.split(x.shape[axis], path)
        try:
            if at_once and split is None:
                shape = (points, *(1,) * (x.dim() - 1), -1)
                module._parameters.update({n: v.view(shape) for n, v in values.items()})  # type: ignore[arg-type]
                y = original(x.view(points, -1, *x.shape[1:])).to(x.dtype)
                return y.reshape(x.shape).contiguous()
            if at_once and split is not None:
                shape = [-1 if dim in (axis, x.dim() - 1) else 1 for dim in range(x.dim())]
                shape[axis] = x.shape[axis]
                module._parameters.update({n: v[split.owner].view(shape) for n, v in values.items()})  # type: ignore[arg-type]
                return original(x).to(x.dtype).contiguous()
            outputs = []
            parts = x.view(points, -1, *x.shape[1:]) if split is None else x.split(split.lengths, axis)
            for p, part in enumerate(parts):
                module._parameters.update({name: value[p] for name, value in values.items()})  # type: ignore[arg-type]
                outputs.append(original(part).to(x.dtype))
            return torch.cat(outputs, 0 if split is None else axis)
        finally:
            module._parameters.update(held)

    return forward


def _token_axis(frame: Frame, x: torch.Tensor) -> int:
    """Which axis of an activation has the tokens: some models fold rows into it, and heads stand before or after it."""
    if x.dim() == 2:
        return 0
    return 2 if frame.ragged and x.dim() == 4 and x.shape[2] == max(frame.ragged) else 1


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
        split = frame.split(x.shape[:-1].numel(), path)
        stacked = x.reshape(*(() if split else (points,)), -1, x.shape[-1])
        stacked = stacked.float().contiguous()  # a strided slice has sums of other orders
        if weight is None or not frame.points:
            chosen = module.weight[columns].float().expand(points, -1, -1)
        else:
            chosen = frame.rows(weight, columns, torch.float32)
        y = _times(stacked, chosen.transpose(1, 2), split)
        if bias is not None and frame.points:
            _add_vector_(y, frame.whole(bias, torch.float32)[:, columns], split)
        elif module.bias is not None:
            y.add_(module.bias[columns])
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
