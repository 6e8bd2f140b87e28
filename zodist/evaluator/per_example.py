"""How leaves run when every example of a batch has perturbations of its own, in one forward for all of them.

A direction of an example is a noise that all share, with the signs of some rows and columns changed: U * (r_i s_i^T).
Then x (W + U * r s^T)^T = x W^T + ((x * s) U^T) * r: one more product with the shared U, whatever the number of examples,
and no matrix per example.  An outer product r s^T alone costs less still: x W^T + (x s) r^T.  The copies of the batch differ
in the share of its own point that an example gets: all, minus all, or nothing.  Below, S is the number of shares, copies
times examples, and an activation is [S, T, k], or [copies, tokens, k] where examples are packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from zodist.directions import LaidRankOne, LaidSigned, Param, matrix_shape
from zodist.errors import ModelError
from zodist.evaluator.frame import Frame
from zodist.evaluator.leaves import Forward, Lookup, multiplies


def vectors_of(
    frame: Frame, param: Param, places: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, bool] | None:
    """Left vectors times weight and share, [S, m], and right vectors, [S, n]; None: the weights themselves.

    The third says whether a noise is shared by all; else a direction is the outer product of the two vectors.
    places: the left vectors' numbers that are wanted, if not all.
    """
    laid = frame.laid(param)
    if laid is None:
        return None
    if frame.shares is None or not isinstance(laid, (LaidSigned, LaidRankOne)):
        raise ModelError(f"{param.name}: this method's directions cannot be given to single examples")
    chosen = None if places is None else param.kernels.view(places)
    r, s = (torch.as_tensor(x) for x in laid.vectors(chosen))
    own = torch.arange(len(frame.shares), device=r.device) % len(r)
    return r[own] * frame.shares[:, None], s[own], isinstance(laid, LaidSigned)


def shared(frame: Frame, param: Param, index: torch.Tensor | None = None) -> torch.Tensor:
    """The noise U of a parameter in its shape and dtype, or some rows of it: in scratch, overwritten by the next."""
    laid = frame.laid(param)
    assert isinstance(laid, LaidSigned)
    m, n = matrix_shape(param.shape)
    rows = torch.arange(m, device=param.weights.device) if index is None else index
    out = frame.scratch(param.model.dtype, 1, len(rows), n)
    laid.write_noise_(param, rows, out, parallel=frame.parallel)
    return out.view(param.shape) if index is None else out[0]


def _spread(
    frame: Frame, values: torch.Tensor, like: torch.Tensor, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """What each share has, [S, k], to go with an activation [S, ..., k] or [copies, tokens, ..., k], in its dtype."""
    values, owners = values.to(dtype or like.dtype), frame.owners
    if owners is None:
        return values.view(values.shape[0], *(1,) * (like.dim() - 2), values.shape[1])
    tokens = (
        1 if like.dim() == 3 or like.shape[1] == len(owners) else 2
    )  # heads stand before tokens or after them
    last = owners[-like.shape[tokens] :]  # logits are asked for at the last tokens alone
    own = values.view(frame.stack, -1, values.shape[1])[:, last]
    shape = [1] * like.dim()
    shape[0], shape[tokens], shape[-1] = own.shape
    return own.view(shape)


def _outer_(
    frame: Frame, y: torch.Tensor, x: torch.Tensor, outer: torch.Tensor, inner: torch.Tensor
) -> torch.Tensor:
    """Add (x . inner) outer to y, with the vectors of each token's own example."""
    inner, outer = (v.to(x.dtype).view(frame.stack, -1, v.shape[1]) for v in (inner, outer))
    along = torch.bmm(x, inner.transpose(1, 2))
    if frame.owners is not None:
        # With every example's vector, and all but the own one set to zero: small products, and no vector per token.
        along *= frame.owners[-x.shape[1] :, None] == torch.arange(along.shape[2], device=along.device)
    return y.baddbmm_(along, outer)


def linear(frame: Frame, module: nn.Linear | Conv1D, own: dict[str, Param], path: str) -> Forward:
    """x W^T + ((x * s) U^T) * r; a GPT-2 layer holds W transposed, so its rows and columns change places."""
    turned = isinstance(module, Conv1D)
    original = module.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        shape = x.shape
        x = _unfolded(frame, x)
        y = original(x.contiguous())
        weight, bias = own.get("weight"), own.get("bias")
        found = None if weight is None else vectors_of(frame, weight)
        if weight is not None and found is not None:
            outer, inner = (found[1], found[0]) if turned else found[:2]
            if found[2]:
                noise = shared(frame, weight)
                product = (x * _spread(frame, inner, x)) @ (noise if turned else noise.t())
                y = y + product * _spread(frame, outer, y)
            else:
                y = _outer_(frame, y, x, outer, inner)
        if bias is not None:
            y = y + _vector(frame, bias, y)
        return y.view(*shape[:-1], -1)

    return forward


def _vector(frame: Frame, param: Param, like: torch.Tensor) -> torch.Tensor | float:
    """The perturbation of a vector for every share, ready to be added."""
    found = whole_vector(frame, param)
    return 0.0 if found is None else _spread(frame, found, like)


def whole_vector(frame: Frame, param: Param) -> torch.Tensor | None:
    """The perturbation of a vector for every share, float32 [S, n]."""
    found = vectors_of(frame, param)
    if found is None:
        return None
    r, s, noisy = found
    return r * s * shared(frame, param).float().view(1, -1) if noisy else r * s


def embedding(frame: Frame, module: nn.Embedding, own: dict[str, Param], path: str) -> Forward:
    """The rows looked up, plus those of the perturbation: r at the row's number times U's row times s."""
    original, param = module.forward, own["weight"]

    def find(ids: torch.Tensor) -> torch.Tensor:
        index, inverse = frame.distinct(ids)
        y, found = param.model.view(param.shape)[index][inverse], vectors_of(frame, param, index)
        if found is None:
            return y
        r, s, noisy = found
        numbers = inverse.expand(frame.stack, -1)
        if frame.owners is None:
            at = torch.gather(r, 1, numbers)
        else:  # every copy has the same tokens
            at = r.view(frame.stack, -1, len(index))[:, frame.owners, numbers[0]]
        amount = at.unsqueeze(-1) * _spread(frame, s, y)
        if noisy:
            amount = amount * shared(frame, param, index)[inverse].float()
        return y + amount.to(y.dtype)

    lookup = Lookup(module, find)

    def forward(*args, **kwargs):
        with lookup:
            return original(*args, **kwargs)

    return forward


def norm(frame: Frame, module: nn.Module, own: dict[str, Param], path: str) -> Forward:
    """Any normalisation over the last axis: its own forward, with a weight for every example, in float32.

    An RMS norm multiplies by its weight, so the weights are given at once and spread over the axes between; a layer norm's
    weight is part of its kernel, which runs once per share.
    """
    original, at_once = module.forward, multiplies(module)

    def forward(x: torch.Tensor) -> torch.Tensor:
        assert frame.shares is not None
        held = {name: p for name, p in module._parameters.items() if p is not None}
        shape, x = x.shape, _unfolded(frame, x)
        values = {name: p.float().expand(len(frame.shares), *p.shape) for name, p in held.items()}
        for name, param in own.items():
            found = whole_vector(frame, param)
            if found is not None:
                values[name] = param.weights.float() + found
        try:
            if at_once:
                spread = {n: _spread(frame, v, x, torch.float32) for n, v in values.items()}
                module._parameters.update(spread)  # type: ignore[arg-type]
                return original(x).to(x.dtype).view(shape)
            y = torch.empty_like(x)
            for share, place in enumerate(_places(frame)):
                module._parameters.update({name: value[share] for name, value in values.items()})  # type: ignore[arg-type]
                y[place] = original(x[place]).to(x.dtype)
            return y.view(shape)
        finally:
            module._parameters.update(held)

    return forward


def _unfolded(frame: Frame, x: torch.Tensor) -> torch.Tensor:
    """Some models fold rows and positions into one axis, [n, k]: back to [dim 0, tokens, k]."""
    return x.reshape(frame.stack, -1, x.shape[-1]) if x.dim() == 2 else x


def _places(frame: Frame) -> Iterator[tuple[Any, ...]]:
    """Where the tokens of each share stand in [dim 0, tokens, ...]."""
    if frame.owners is None:
        yield from ((slice(n, n + 1),) for n in range(frame.stack))
        return
    for copy in range(frame.stack):
        yield from ((copy, tokens) for tokens in frame.members)


def head(frame: Frame, module: nn.Linear, own: dict[str, Param], path: str, inner: Forward) -> Forward:
    """The output projection at the vocabulary entries that enter the loss (``frame.columns``)."""
    weight, bias = own.get("weight"), own.get("bias")

    def forward(x: torch.Tensor) -> torch.Tensor:
        columns = frame.columns
        if columns is None:
            return inner(x)
        x = x.float().contiguous()
        y = F.linear(
            x, module.weight[columns].float(), None if module.bias is None else module.bias[columns].float()
        )
        found = None if weight is None else vectors_of(frame, weight, columns)
        if weight is not None and found is not None:
            r, s, noisy = found
            product = x * _spread(frame, s, x)
            product = (
                product @ shared(frame, weight, columns).float().t()
                if noisy
                else product.sum(-1, keepdim=True)
            )
            y = y + product * _spread(frame, r, y)
        if bias is not None:
            added = _vector(frame, bias, x)
            y = y + (added[..., columns] if isinstance(added, torch.Tensor) else added)
        return y

    return forward


def kind_of(module: nn.Module) -> Callable[..., Forward]:
    """The form of a leaf that zodist.evaluator.leaves can perturb."""
    if isinstance(module, nn.Embedding):
        return embedding
    return linear if isinstance(module, (nn.Linear, Conv1D)) else norm
