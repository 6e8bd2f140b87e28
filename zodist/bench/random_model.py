"""A model folder with random weights, of any size: written number by number, so that the weights are never in memory.

With it a tokenizer of a few words and a task about them, which is all that a run needs besides.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from zodist import noise
from zodist.directions import Combination, Dense, Param, address
from zodist.errors import ModelError
from zodist.models import config_of

SCALE, SEED = 0.02, 1  # standard deviation of the weights; of the noise that they are
_PIECE = 1 << 22  # numbers at a time
_WORDS = ("<unk>", "<pad>", "bad", "good", "it", "was", *(f"word{n}" for n in range(26)))
_TASK = """\
kind = "classification"
template = "{{sentence}} it was"
[labels]
0 = " bad"
1 = " good"
[source.files]
train = "{folder}/rows.jsonl"
validation = "{folder}/rows.jsonl"
"""


def write(folder: Path, model: str, layers: int, tokens: int) -> tuple[Path, int]:
    """Weights in bfloat16, tokenizer and task.

    model: as zodist.plan.shapes.read_shape takes it.  layers: of the model, 0: as many as it has.  tokens: of an example.
    Returns the path of the task and the number of parameters.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    config = config_of(model)
    if layers:
        config.num_hidden_layers = layers
    config.architectures, config.dtype = None, torch.bfloat16
    with init_empty_weights(include_buffers=False):
        empty: Any = AutoModelForCausalLM.from_config(config)
    empty.tie_weights()
    if config.vocab_size < len(_WORDS):
        raise ModelError(
            f"{model!r} has a vocabulary of {config.vocab_size}, at least {len(_WORDS)} are needed"
        )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    _weights(folder / "model.safetensors", empty)
    _tokenizer(folder)
    words = _WORDS[6:]
    rows = [
        {
            "sentence": " ".join(words[(row + k) % len(words)] for k in range(max(1, tokens - 2))),
            "label": row % 2,
        }
        for row in range(16)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = folder / "task.toml"
    task.write_text(_TASK.format(folder=folder), encoding="utf-8")
    return task, sum(p.numel() for p in empty.parameters())


def _weights(path: Path, model: torch.nn.Module) -> None:
    """The file of a model on the meta device: its format is that of safetensors, which takes whole tensors only."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    named, end = dict(model.named_parameters()), 0
    for name, p in named.items():
        start, end = end, end + 2 * p.numel()
        header[name] = {"dtype": "BF16", "shape": list(p.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, p in named.items():
            for start in range(0, p.numel(), _PIECE):
                piece = _piece(name, tuple(p.shape), start, min(_PIECE, p.numel() - start))
                file.write(piece.view(torch.uint8).numpy().data)


def _piece(name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor:
    """Numbers of a parameter: ones and zeros of what has one axis, noise at their addresses of what has more."""
    if len(shape) < 2:
        return torch.full((count,), float(name.endswith("weight")), dtype=torch.bfloat16)
    zeros, out = (torch.zeros(count, dtype=torch.bfloat16) for _ in range(2))
    param = Param(name, address(name), shape, zeros, zeros, start)
    law, at = Dense(noise.RADEMACHER, coded=False), Combination.of((SEED, SCALE))
    law.lay(param, [at], {}).write_(param, 0, count, out[None])
    return out


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: n for n, word in enumerate(_WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", pad_token="<pad>").save_pretrained(
        folder
    )
