"""What figures were measured on: processor, cores, memory, versions; nothing that names a person or a host."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from zodist.exchange import cores


def describe(threads: int) -> dict[str, str]:
    """The machine as label and text, in the order in which to show it."""
    import numba
    import numpy
    import torch
    import transformers

    import zodist

    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "processor": _processor(),
        "vector instructions of torch": torch.backends.cpu.get_cpu_capability(),
        "cores for this process": str(cores()),
        "threads": str(threads),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "load average before": load,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numba": numba.__version__,
        "numpy": numpy.__version__,
        "zodist": zodist.__version__,
        "measured": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _processor() -> str:
    """The processor's model as the system names it."""
    return _entry("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def _memory() -> str:
    found = _entry("/proc/meminfo", "MemTotal")
    return f"{int(found.split()[0]) / 2**20:.1f} GiB" if found else "unknown"


def _entry(path: str, name: str) -> str:
    """The text after ``name:`` in a file of such lines; empty if there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
