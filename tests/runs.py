"""Real runs on a tiny model: folders to start from, and worker processes that train as torchrun's would."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# Forked from a server that has imported everything: a worker starts in milliseconds and is still a process of its own.
CONTEXT = multiprocessing.get_context("forkserver")
os.environ.setdefault(
    "TORCH_CPP_LOG_LEVEL", "ERROR"
)  # as zodist.exchange.threads sets it for the command line
PATIENCE_S = 240.0  # until a test gives up: a process takes seconds to start, on a busy machine many
CONTEXT.set_forkserver_preload(["warm", "transformers.models.llama.modeling_llama"])

CONFIG = """
[run]
folder = "{folder}/run"
steps = 20
threads = 1
[model]
name = "{folder}/model"
dtype = "float32"
[task]
name = "{folder}/task.toml"
train = 48
validation = 12
test = 20
[method]
name = "mezo"
probes = 4
eps = 1e-2
[rule]
lr = 1e-3
[batch]
size = 3
[exchange]
timeout_s = 60
digest_every = 5
[output]
evaluate_every = 10
snapshot_every = 7
plot = false
"""

TASK = """
kind = "classification"
template = "{{sentence}} it was"
label_field = "label"
metric = "accuracy"
[labels]
0 = " bad"
1 = " good"
[source.files]
train = "{folder}/train.jsonl"
validation = "{folder}/validation.jsonl"
"""

WORDS = ["the film", "a plot", "this cast", "her song", "his joke", "one scene"]
GOOD, BAD = ["shines", "glows", "delights"], ["bores", "drags", "fails"]


def rows(n: int) -> list[dict[str, object]]:
    """Sentences whose verb tells the label; every row differs."""
    made = []
    for k in range(n):
        label = k * 7 % 2
        verb = (GOOD if label else BAD)[k // 2 % 3]
        made.append({"sentence": f"{WORDS[k % 6]} {verb} " + "very " * (k % 4) + "much", "label": label})
    return made


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the sentences above."""
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>"])  # type: ignore[call-arg]
    texts = [f"{row['sentence']} it was {word}" for row in rows(24) for word in ("bad", "good")]
    made.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", pad_token="<pad>")
    fast.save_pretrained(folder)
    return fast


@dataclass(frozen=True)
class Place:
    """A folder with a model, a task, data and a config."""

    folder: Path
    config: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def file(self, name: str) -> bytes:
        return (self.run / name).read_bytes()

    def lines(self, name: str) -> list[dict]:
        return [json.loads(line) for line in self.file(name).splitlines()]

    def digest(self) -> str:
        """The digest after the last step, from the metrics."""
        return [line for line in self.lines("metrics.jsonl") if "digest" in line][-1]["digest"]


def make_place(folder: Path, *, hidden: int = 32, seed: int = 0) -> Place:
    """Write everything that a run of a tiny Llama needs."""
    words = tokenizer(folder / "model")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    for split, n in (("train", 64), ("validation", 24)):
        text = "".join(json.dumps(row) + "\n" for row in rows(n))
        (folder / f"{split}.jsonl").write_text(text)
    (folder / "task.toml").write_text(TASK.format(folder=folder))
    path = folder / "config.toml"
    path.write_text(CONFIG.format(folder=folder))
    return Place(folder, path)


def _flip_a_bit_after(step: int) -> None:
    """Make this process's memory fail once: a bit of one weight, after a step."""
    from zodist.step import Replica

    advance = Replica.advance

    def failing(self, answer):
        outcome = advance(self, answer)
        if self.step == step:
            self.params[0].words[5] ^= 1 << 12  # a lower bit may be rounded away by the next update
        return outcome

    Replica.advance = failing


def _die_after(step: int) -> None:
    """Kill this process when it has done a step."""
    from zodist.step import Replica

    advance = Replica.advance

    def dying(self, answer):
        outcome = advance(self, answer)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    Replica.advance = dying


def _work(
    config: Path,
    overrides: tuple[str, ...],
    worker: int,
    workers: int,
    port: int,
    error: Path,
    flip: int = -1,
    die: int = -1,
) -> None:
    """One worker process; flip: the step after which a bit of its weights flips; die: after which it is killed."""
    if flip >= 0:
        _flip_a_bit_after(flip)
    if die >= 0:
        _die_after(die)
    names = {"RANK": worker, "WORLD_SIZE": workers, "LOCAL_WORLD_SIZE": workers, "LOCAL_RANK": worker}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    from zodist.config import load
    from zodist.errors import ZodistError
    from zodist.run import train

    try:
        train(load(config, overrides), quiet=True)
    except ZodistError as found:
        error.write_text(str(found))
        os._exit(2)


@dataclass
class Launched:
    """Workers that are running."""

    processes: list
    errors: list[Path]

    def wait(self, seconds: float = PATIENCE_S) -> list[int | None]:
        """Exit codes, in worker order."""
        for process in self.processes:
            process.join(seconds)
        return [process.exitcode for process in self.processes]

    def kill(self) -> None:
        """SIGKILL to all."""
        for process in self.processes:
            if process.pid is not None:
                with suppress(ProcessLookupError):  # the fork server may have reaped it by now
                    os.kill(process.pid, signal.SIGKILL)
        self.wait()

    def error(self, worker: int = 0) -> str:
        """What the worker's ZodistError said."""
        return self.errors[worker].read_text() if self.errors[worker].exists() else ""


def launch(
    place: Place,
    workers: int = 1,
    *overrides: str,
    flip: tuple[int, int] = (-1, -1),
    die: tuple[int, int] = (-1, -1),
) -> Launched:
    """Start workers on a place's config; flip: (worker, step) of a failing memory; die: of a death."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    errors = [place.folder / f"error-{time.monotonic_ns()}-{w}" for w in range(workers)]
    processes = [
        CONTEXT.Process(
            target=_work,
            args=(
                *(place.config, overrides, w, workers, port, errors[w]),
                *(step if w == worker else -1 for worker, step in (flip, die)),
            ),
            daemon=True,
        )
        for w in range(workers)
    ]
    for process in processes:
        process.start()
    return Launched(processes, errors)


def finish(place: Place, workers: int = 1, *overrides: str) -> None:
    """Run to the end; fails with the workers' own words."""
    launched = launch(place, workers, *overrides)
    codes = launched.wait()
    assert codes == [0] * workers, [codes, *(launched.error(w) for w in range(workers))]


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Poll until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
