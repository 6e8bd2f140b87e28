"""Frozen lower layers, run once for every example: what enters the first trained layer is kept and used again.

An example's states are computed alone, without padding, so they are a function of the example and of the frozen weights,
whatever batch it is in and whoever evaluates it.  Only for models in which a layer's input, the positions and the mask are
all that the layers above it need (rotary positions); that this holds is checked on the first example, and else refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zodist.directions import Param
from zodist.errors import ModelError
from zodist.evaluator.patch import replaced

if TYPE_CHECKING:
    from zodist.tasks import Batch

OFF = "set batch.cache_frozen = false"


class _Reached(Exception):
    """The forward has come to the first trained layer."""


class FrozenPrefix:
    """The layers below the first trained one of a causal language model.

    kept: states by token ids, [tokens, hidden] in the model's dtype; shared by evaluators of one model, and grown here.
    Raises ModelError where no layer can be skipped.
    """

    def __init__(self, model: Any, params: Sequence[Param], kept: dict[bytes, torch.Tensor]) -> None:
        self.model, self.kept = model, kept
        self.layers = _layers(model)
        trained = {p.model.data_ptr() for p in params}
        within = [any(w.data_ptr() in trained for w in layer.parameters()) for layer in self.layers]
        self.depth = within.index(True) if any(within) else 0
        entry = model.get_input_embeddings().weight.data_ptr()
        if self.depth == 0 or entry in trained:
            what = (
                "the embedding"
                if entry in trained
                else "the first layer"
                if any(within)
                else "no layer at all"
            )
            raise ModelError(
                f"batch.cache_frozen needs frozen lower layers, but model.train names {what}; {OFF}"
            )
        self._checked = False

    @torch.inference_mode()
    def states(self, batch: Batch) -> torch.Tensor:
        """What enters the first trained layer, [rows, tokens, hidden], left-padded with zeros as the batch is."""
        rows = self.rows(batch)
        out = rows[0].new_zeros(len(rows), batch.input_ids.shape[1], rows[0].shape[-1])
        for row, state in zip(out, rows, strict=True):
            row[len(row) - len(state) :] = state
        return out

    @torch.inference_mode()
    def rows(self, batch: Batch) -> list[torch.Tensor]:
        """The same without padding, [tokens, hidden] of every row."""
        rows = []
        for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
            own = ids[mask.bool()]
            key = own.numpy().tobytes()
            if key not in self.kept:
                self.kept[key] = self._compute(own)
            rows.append(self.kept[key])
        return rows

    def _compute(self, ids: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []

        def stop(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            found.append(hidden)
            raise _Reached

        with replaced({self.layers[self.depth]: stop}), suppress(_Reached):
            self.model.base_model(input_ids=ids[None].to(self.model.device), use_cache=False)
        state = found[0][0]
        if not self._checked:
            self._check(ids, state)
            self._checked = True
        return state.clone()

    def _check(self, ids: torch.Tensor, state: torch.Tensor) -> None:
        """The logits of one row must be those of the whole model."""
        ids = ids[None].to(self.model.device)
        whole = self.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits.float()
        with self.skipping():
            short = self.model(inputs_embeds=state[None], use_cache=False, logits_to_keep=1).logits.float()
        if not torch.allclose(short, whole, rtol=1e-2, atol=1e-2 * float(whole.std())):
            raise ModelError(
                f"{type(self.model).__name__}: its upper layers need more than the states below them; {OFF}"
            )

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """The frozen layers hand their input on; it is that of the first trained layer."""
        with replaced(dict.fromkeys(self.layers[: self.depth], _hand_on)):
            yield


def _hand_on(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return hidden


def _layers(model: Any) -> nn.ModuleList:
    """The decoder layers: the one list of modules of the base model that has a rotary embedding beside it."""
    base = model.base_model
    found = [child for child in base.children() if isinstance(child, nn.ModuleList)]
    if len(found) != 1 or not hasattr(base, "rotary_emb"):
        raise ModelError(
            f"batch.cache_frozen knows models with rotary positions, not {type(model).__name__}; {OFF}"
        )
    return found[0]
