"""Which axis of a norm's input has the tokens, where there are four: models put the heads on either side.

Found in a forward that is made for it, on a row so long that no other axis of the model can have its length.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from zodist.errors import ModelError
from zodist.evaluator.norm import Norm


def find_token_axes(model: Any, norms: Iterable[Norm]) -> None:
    """Set ``token_axis`` of the norms that are given four axes.  Raises ModelError where none of them has the tokens."""
    leaves = list(norms)
    if not leaves:
        return
    length, seen = _length_of_its_own(model), {}

    def note(module: nn.Module, given: tuple[Any, ...]) -> None:
        seen[module] = tuple(given[0].shape)

    hooks = [leaf.module.register_forward_pre_hook(note) for leaf in leaves]
    words = model.get_input_embeddings()
    ids = torch.arange(length, device=model.device)[None] % words.num_embeddings
    try:
        with torch.inference_mode():
            model(
                input_ids=ids, position_ids=torch.arange(length, device=model.device)[None], use_cache=False
            )
    finally:
        for hook in hooks:
            hook.remove()
    for leaf in leaves:
        shape = seen.get(leaf.module, ())
        if len(shape) < 4:
            continue
        if shape.count(length) != 1:
            raise ModelError(
                f"{leaf.path}: no axis of its input {shape} has the {length} tokens; set batch.packed = false"
            )
        leaf.token_axis = shape.index(length)


def _length_of_its_own(model: Any) -> int:
    """A short row's length that no number of the model's configuration is equal to."""
    numbers = {value for value in model.config.get_text_config().to_dict().values() if isinstance(value, int)}
    return next(length for length in range(5, 1 << 16) if length not in numbers)
