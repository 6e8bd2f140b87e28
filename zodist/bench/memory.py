"""``zodist bench memory``: peak memory of a step, of a bare forward and of the in-place step, in a fresh process each.

The process is ``python -m zodist.bench.memory '{...}'``.

The variant first runs on a single short example, which loads code and compiles kernels; then the process
gives back what it has freed, the mark of its largest size is reset, and the variant runs for real with
buffers of its own.  What the mark rises by is the variant's; the weights, in memory since the start, are added.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zodist.bench.line import Line
from zodist.errors import ZodistError
from zodist.exchange import prepare_environment, set_threads

if TYPE_CHECKING:
    from zodist.bench.variants import Settings


VARIANTS = ("bare_forwards", "step", "inplace_step")
MIB = 1 << 20


def measure_memory(settings: Settings) -> list[Line]:
    """Peaks, and what the step and the in-place step need above the bare forward, beside the model's largest layer.

    Raises ZodistError off Linux, where the kernel does not tell.
    """
    from zodist.bench.variants import load

    largest = max(p.numel() * p.element_size() for p in load(settings).parameters()) / MIB
    bare, step, inplace = (_peak_bytes(settings, variant) / MIB for variant in VARIANTS)
    shared: dict[str, Any] = {"setting": str(settings), "case": settings.case}
    of_bare: dict[str, Any] = {"ceiling": bare, "ceiling_is": "a bare forward's peak"}
    peer: dict[str, Any] = {"peer_is": "in-place MeZO as published"}
    of_layer: dict[str, Any] = {"ceiling": largest, "ceiling_is": "the weights of the model's largest layer"}
    above = max(step - bare, 0.0)
    return [
        Line("memory", "bare forward", bare, "MiB", **shared),
        Line("memory", "step", step, "MiB", **shared, **of_bare, peer=inplace, **peer),
        Line(
            "memory",
            "step above bare",
            above,
            "MiB",
            **shared,
            **of_layer,
            peer=inplace - bare,
            **peer,
        ),
    ]


def _peak_bytes(settings: Settings, variant: str) -> int:
    """Bytes of the weights and of all that one run of a variant needs beside them."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        raise ZodistError(
            "peak memory is read from Linux's /proc/self/clear_refs, which is not there; use Linux"
        )
    question = json.dumps({"settings": settings.plain(), "variant": variant})
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", "zodist.bench.memory", question],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ZodistError(
            f"the process that measures the memory of {variant!r} ended with {done.returncode}: {last}"
        )
    return int(done.stdout.strip().splitlines()[-1])


def measure(settings: Settings, variant: str) -> int:
    """The peak in this process, which must be a fresh one."""
    from zodist.bench.variants import Bench, load

    set_threads(settings.threads)
    model = load(settings)
    small = Bench(model, replace(settings, batch=1, tokens=1, wide=1))
    small.run(variant)
    small.close()
    del small
    bench = Bench(model, settings)
    weights = sum(p.numel() * p.element_size() for p in bench.weights)
    for (
        p
    ) in bench.weights:  # pages of a file that no variant has read yet would count for the first that does
        p.float().sum()
    _give_back()
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    bench.run(variant)
    return weights + _resident("VmHWM") - before


def _give_back() -> None:
    gc.collect()
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident(key: str) -> int:
    """A figure of /proc/self/status, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise ZodistError(f"/proc/self/status has no {key}; peak memory cannot be measured on this kernel")


def main() -> None:
    """Answer one question, given as JSON, with one number on standard output."""
    prepare_environment()
    from zodist.bench.variants import Settings

    question = json.loads(sys.argv[1])
    sys.stdout.write(f"{measure(Settings(**question['settings']), question['variant'])}\n")


if __name__ == "__main__":
    main()
