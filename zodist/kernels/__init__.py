"""Compiled kernels, by subject: dense noise, matrices, sketches, rules; they give the bits of the numpy reference.

``device`` says which kernels serve which device: numba's, or those of the files named ``cuda``, which are Triton's.

Compiled kernels are kept on disk between processes.  numba looks only at the file that a function stands in, so a change
in a file that it was compiled from would go unseen: its cache is therefore named after the contents of all its files.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import lazy_loader
import numba


def _cache_folder() -> Path:
    here = Path(__file__).parent
    files = [path for path in sorted(here.glob("*.py")) if not path.name.startswith(("cuda", "device"))]
    content = b"".join(path.read_bytes() for path in [here.parent / "noise.py", *files])
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "zodist" / f"kernels-{hashlib.sha256(content).hexdigest()[:16]}"


if "NUMBA_CACHE_DIR" not in os.environ:  # the user's own choice stands
    try:
        folder = _cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]  # before any kernel is declared
    except OSError:
        pass  # a home that cannot be written: numba chooses a place, or compiles anew in every process

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
