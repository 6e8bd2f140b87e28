"""Models in parts take less memory: a real run under a limit that the weights alone would break."""

from __future__ import annotations

import json
import os
import resource
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import CONTEXT, PATIENCE_S
from transformers import AutoTokenizer, LlamaConfig

from zodist.bench.random_model import write
from zodist.bench.shards import Shards, measure_shards
from zodist.errors import ConfigError
from zodist.shard.files import WeightFiles

LEFT = (
    224 << 20
)  # bytes that a worker may take after its libraries are loaded, half of them stacks of gloo's threads
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
SHARDS = Shards(
    model="",
    kind="fsdp",
    workers=1,
    size=1,
    offload="none",
    limit=0,
    layers=0,
    batch=2,
    tokens=5,
    probes=1,
    steps=2,
    threads=1,
    folder="",
)
CONFIG = """
[run]
folder = "{folder}/run"
steps = 3
threads = 1
[model]
name = "{folder}/model"
dtype = "bfloat16"
train = "layers.[05]."
[task]
name = "{task}"
train = 8
validation = 2
[method]
name = "mezo"
probes = 2
noise = "rademacher"
[rule]
lr = 1e-3
[batch]
size = 2
[exchange]
digest_every = 1
[output]
keep = 0
plot = false
"""


def shaped(folder: Path, **changes: Any) -> Path:
    """A configuration without weights."""
    LlamaConfig(**(SMALL | changes)).save_pretrained(folder)
    return folder / "config.json"


def _reserved() -> int:
    """Bytes of private memory, as RLIMIT_DATA counts them."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))


def _work(config: Path, overrides: tuple[str, ...], worker: int, workers: int, port: int) -> None:
    names = {"RANK": worker, "WORLD_SIZE": workers, "LOCAL_WORLD_SIZE": workers, "LOCAL_RANK": worker}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401  # its memory is not the weights'

    from zodist.config import load
    from zodist.train import train

    limit = _reserved() + LEFT
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    train(load(config, overrides), quiet=True)


def codes(config: Path, workers: int, *overrides: str) -> list[int | None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        CONTEXT.Process(target=_work, args=(config, overrides, w, workers, port), daemon=True)
        for w in range(workers)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(PATIENCE_S)
    return [process.exitcode for process in started]


@pytest.mark.slow
def test_a_model_larger_than_the_memory_is_trained_from_mapped_files(tmp_path: Path) -> None:
    """172 M parameters are 344 MB, more than a worker may take; both replicas have one digest after each step."""
    shape = {"vocab_size": 2048, "hidden_size": 1024, "intermediate_size": 8192, "num_hidden_layers": 6}
    given = shaped(tmp_path / "given", **shape)
    task, parameters = write(tmp_path / "model", str(given), 0, 6)
    assert 2 * parameters > 1.4 * LEFT
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(folder=tmp_path, task=task))
    assert codes(config, 1, f"run.folder={tmp_path}/whole")[0] != 0, "a worker has no room for all of it"
    cut = ("shard.kind=zero", "shard.size=1", "shard.offload=nvme", f"shard.folder={tmp_path}/files")
    assert codes(config, 2, *cut) == [0, 0]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len({line["digest"] for line in lines if "digest" in line}) == 3


def test_a_random_model_is_a_model_folder(tmp_path: Path) -> None:
    given = shaped(tmp_path / "given")
    task, parameters = write(tmp_path / "made", str(given), 2, 7)
    files = WeightFiles(tmp_path / "made", "made", "model")
    row = torch.empty(64 * 32)
    files.read_("model.embed_tokens.weight", (64, 32), 0, row)
    assert (
        row.abs().unique().tolist() == [pytest.approx(0.02, rel=1e-2)]
        and 0.4 < (row > 0).float().mean() < 0.6
    )
    norm = torch.empty(32)
    files.read_("model.norm.weight", (32,), 0, norm)
    assert (norm == 1).all()
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert len(model.model.layers) == 2 and parameters == sum(p.numel() for p in model.parameters())
    assert model.dtype == torch.bfloat16
    sentence = json.loads((tmp_path / "made" / "rows.jsonl").read_text().splitlines()[0])["sentence"]
    assert len(AutoTokenizer.from_pretrained(tmp_path / "made")(f"{sentence} it was").input_ids) == 7
    assert task.exists()


@pytest.mark.slow
def test_the_whole_models_step_is_calculated_from_two_cuts(tmp_path: Path) -> None:
    given = shaped(tmp_path / "given")
    lines = measure_shards(replace(SHARDS, model=str(given), folder=str(tmp_path)), [1, 2])
    found = {line.name: line for line in lines}
    assert len(found) == len(lines)
    one, two = found["step, 1 layers"].value, found["step, 2 layers"].value
    whole = found["a step with all 3 layers"]
    assert whole.value == pytest.approx(one + 2 * (two - one)) and "not measured" in whole.note
    assert all(0 < line.value for name, line in found.items() if "memory" in name)
    assert not [path for path in tmp_path.iterdir() if path.name != "given"], "nothing stays"


def test_numbers_that_do_not_fit_are_one_sentence() -> None:
    for asked, layers, sentence in [
        (replace(SHARDS, steps=1), [], "--steps 1 must be >= 2"),
        (SHARDS, [2, 1], r"--layers \[2, 1\] must be two numbers"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            measure_shards(asked, layers)
