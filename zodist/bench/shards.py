"""``zodist bench shards``: real steps of a large random model on workers of this machine that may not hold it.

The workers are ``zodist train`` as anybody starts it.  A limit is the kernel's on private memory (RLIMIT_DATA): heap, stacks
and private mappings, touched or not; files that are mapped to be shared, which the system may drop, do not count.
What a worker has in use is read from /proc every few milliseconds, pages of its own and pages of files apart.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import IO, Any

from zodist.bench.line import Line, counted
from zodist.bench.random_model import write
from zodist.errors import ConfigError, ModelError
from zodist.models import config_of

GIB = 1 << 30
_POLL_S = 0.004
_CONFIG = """\
[run]
folder = "{folder}/run"
steps = {steps}
threads = {threads}
[model]
name = "{folder}/model"
dtype = "bfloat16"
[task]
name = "{task}"
train = 8
validation = 2
[method]
name = "mezo"
probes = {probes}
noise = "rademacher"
[rule]
lr = 1e-4
[batch]
size = {batch}
[shard]
kind = "{kind}"
size = {size}
offload = "{offload}"
folder = "{files}"
[exchange]
timeout_s = 1800
digest_every = 1
[output]
keep = 0
plot = false
"""


@dataclass(frozen=True)
class Shards:
    """What is measured.  layers: of the model, 0: its own.  size: workers of a shard group.  limit: bytes, 0: none.

    model: as zodist.bench.random_model.write takes it.  folder: where model and offloaded weights lie meanwhile.
    """

    model: str
    kind: str
    workers: int
    size: int
    offload: str
    limit: int
    layers: int
    batch: int
    tokens: int
    probes: int
    steps: int
    threads: int
    folder: str


@dataclass(frozen=True)
class Found:
    """Of one run.

    parameters: of the model.  private, mapped: bytes that the worker with most had in use, its own and of files; reserved:
    bytes of private memory, touched or not, which the limit is about.  load_s: until the first step.  seconds: of each step
    but the first.  digests: of the weights after each step; were a worker's another one, the run would have ended.
    """

    parameters: int
    private: int
    mapped: int
    reserved: int
    load_s: float
    seconds: list[float]
    digests: list[str]


def measure_shards(asked: Shards, layers: Sequence[int] = ()) -> list[Line]:
    """Memory, seconds of a step and the digest after the last.

    layers: instead of asked.layers, two cuts of the model, from which the step of the whole one is calculated.
    Raises ConfigError where the numbers do not fit each other, ModelError where a worker ends before its last step.
    """
    if asked.steps < 2:
        raise ConfigError(f"--steps {asked.steps} must be >= 2: the first has what is done once")
    if layers and (len(layers) != 2 or not 0 < layers[0] < layers[1]):
        raise ConfigError(f"--layers {list(layers)} must be two numbers, the smaller one first")
    if not layers:
        return _lines(asked, measure(asked))
    cuts = [replace(asked, layers=count) for count in layers]
    found = [measure(cut) for cut in cuts]
    lines = [line for cut, own in zip(cuts, found, strict=True) for line in _lines(cut, own)]
    every = config_of(asked.model).num_hidden_layers
    a_layer = (median(found[1].seconds) - median(found[0].seconds)) / (layers[1] - layers[0])
    whole = median(found[0].seconds) + (every - layers[0]) * a_layer
    note = f"calculated from the steps with {layers[0]} and {layers[1]} layers, not measured"
    lines.append(
        Line("shards", f"a step with all {every} layers", whole, "s", setting=lines[0].setting, note=note)
    )
    return lines


def measure(asked: Shards) -> Found:
    """One run, in a temporary folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="zodist-shards-", dir=asked.folder or None) as place:
        folder = Path(place)
        task, parameters = write(folder / "model", asked.model, asked.layers, asked.tokens)
        config = folder / "config.toml"
        files = folder / "files" if asked.offload == "nvme" else ""
        settings = {**vars(asked), "folder": folder, "task": task, "files": files}
        config.write_text(_CONFIG.format(**settings), encoding="utf-8")
        begun = time.monotonic()
        watch = _run(asked, config, folder / "run" / "journal.jsonl")
        lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        digests = [found["digest"] for found in map(json.loads, lines) if "digest" in found]
    marks = watch.marks
    seconds = [b - a for a, b in zip(marks[1:], marks[2:], strict=False)]
    private, mapped, reserved = watch.peaks
    return Found(parameters, private, mapped, reserved, marks[0] - begun, seconds, digests)


class _Watch:
    """Peaks of bytes in use, private, of files, and reserved; when the journal got its header and each of its lines."""

    def __init__(self, journal: Path) -> None:
        self.journal, self.marks = journal, list[float]()
        self.peaks = (0, 0, 0)

    def look(self, pids: Sequence[int]) -> None:
        """Once."""
        lines = self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0
        self.marks += [time.monotonic()] * (lines - len(self.marks))
        for pid in pids:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue  # it has ended
            sizes = dict(line.split(":", 1) for line in status.splitlines())
            own, file, shared, reserved = (
                int(sizes.get(key, "0 kB").split()[0]) * 1024
                for key in ("RssAnon", "RssFile", "RssShmem", "VmData")
            )
            now = (own, file + shared, reserved)
            self.peaks = tuple(max(pair) for pair in zip(self.peaks, now, strict=True))


def _run(asked: Shards, config: Path, journal: Path) -> _Watch:
    """Start the workers, look at them until they have ended."""
    from torch.distributed import TCPStore  # pyright: ignore

    # Hosted here, as torchrun does it: the system chooses the port, so nobody can have taken it.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    package = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")])),
        "OMP_NUM_THREADS": str(asked.threads),
        "WORLD_SIZE": str(asked.workers),
        "LOCAL_WORLD_SIZE": str(asked.workers),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    command = [sys.executable, "-m", "zodist", "train", str(config)]
    watch, started, said = _Watch(journal), list[subprocess.Popen[bytes]](), list[IO[bytes]]()
    try:
        for worker in range(asked.workers):
            own = {"RANK": str(worker), "LOCAL_RANK": str(worker)}
            said.append(tempfile.TemporaryFile())
            process = subprocess.Popen(
                command, env=environment | own, stdout=said[-1], stderr=subprocess.STDOUT
            )
            started.append(process)
            if asked.limit:
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (asked.limit, asked.limit))
        while any(process.poll() is None for process in started):
            watch.look([process.pid for process in started])
            if any(process.poll() for process in started):
                break
            time.sleep(_POLL_S)
        watch.look([])
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()
    for worker, (process, words) in enumerate(zip(started, said, strict=True)):
        if process.returncode > 0:
            raise ModelError(f"worker {worker} ended with {process.returncode}: {_last(words)}")
    if len(watch.marks) <= asked.steps:
        raise ModelError(f"the workers ended after {max(0, len(watch.marks) - 1)} of {asked.steps} steps")
    return watch


def _last(words: IO[bytes]) -> str:
    words.seek(0)
    lines = [line for line in words.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def _lines(asked: Shards, found: Found) -> list[Line]:
    layers = f", {counted(asked.layers, 'layer')}" if asked.layers else ""
    group = f"{asked.kind}, {counted(asked.workers, 'worker')}, {asked.size} a group, offload {asked.offload}"
    shape = f"{asked.batch} x {asked.tokens} tokens, {counted(asked.probes, 'probe')}"
    shared: dict[str, Any] = {"setting": f"{asked.model}{layers}, bfloat16; {group}; {shape}"}
    under: dict[str, Any] = {}
    if asked.limit:
        under = {"ceiling": asked.limit / GIB, "ceiling_is": "the limit on private memory of a worker"}
    note = f"digest {found.digests[-1]} on all workers after {counted(asked.steps, 'step')}"
    case = f"{asked.layers} layers" if asked.layers else ""
    return [
        Line("shards", "weights", 2 * found.parameters / GIB, "GiB", case=case, **shared),
        Line(
            "shards",
            "private memory in use, at most",
            found.private / GIB,
            "GiB",
            case=case,
            **shared,
            **under,
        ),
        Line(
            "shards",
            "private memory reserved, at most",
            found.reserved / GIB,
            "GiB",
            case=case,
            **shared,
            **under,
        ),
        Line("shards", "pages of files in use, at most", found.mapped / GIB, "GiB", case=case, **shared),
        Line("shards", "until the first step", found.load_s, "s", case=case, **shared),
        Line(
            "shards",
            "step",
            median(found.seconds),
            "s",
            low=min(found.seconds),
            high=max(found.seconds),
            rounds=len(found.seconds),
            note=note,
            case=case,
            **shared,
        ),
    ]
