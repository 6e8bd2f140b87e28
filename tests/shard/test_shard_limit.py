"""Models in parts take less memory: a real run under a limit that the weights alone would break."""

from __future__ import annotations

import json
import os
import resource
import socket
from pathlib import Path

import pytest
from runs import CONTEXT, PATIENCE_S
from shapes import shaped

from zodist.bench import write

# Bytes that a worker may take after its libraries are loaded, half of them stacks of gloo's threads.
LEFT = 224 << 20
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
    from zodist.run import train

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
