"""Imported once by the fork server of runs.py: modules and compiled kernels that every worker process will need."""

from __future__ import annotations

import numpy as np
import torch
from exact import dress

from zodist import noise
from zodist.directions import Combination, Dense, Param, as_words, coded_tables
from zodist.kernels import Noise, cpu
from zodist.models import digest
from zodist.run import replay, train  # noqa: F401

keys, tables = coded_tables(Dense(noise.GAUSSIAN, True), [Combination.of((1 << 16, 0.0))] * 2)
role, one = np.uint64(noise.Z), np.uint64(1)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    flat = torch.zeros(64, dtype=dtype)
    param = Param("warm", 1, (64,), flat, flat)
    digest([param])
    for out_dtype in {dtype, torch.float32}:
        out = as_words(torch.zeros(2, 1, 64, dtype=out_dtype)).reshape(2, 1, 64)
        kind = 0 if out_dtype == torch.float32 else param.kind
        cpu.perturb_serial(
            param.kind, kind, param.words, 0, 0, 64, out, Noise(0, keys, tables, one, role), dress(2)
        )
    out = as_words(torch.zeros(2, 1, 64, dtype=dtype)).reshape(2, 1, 64)
    starts = np.zeros(1, np.int64)
    cpu.perturb_rows_serial(
        param.kind, param.kind, param.words, 0, starts, 64, out, Noise(0, keys, tables, one, role), dress(2)
    )
    cpu.update_serial(
        param.kind, param.words, 0, Noise(0, keys, tables[:1], one, role), dress(), np.float32(0), one
    )
