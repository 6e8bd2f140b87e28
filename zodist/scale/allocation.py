"""A sweep on the machines of an allocation, as they are: inside torchrun, mpirun or srun, nothing is shaped.

All workers go through the same cells in the same order; worker 0 writes the lines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from zodist.errors import ConfigError
from zodist.exchange import cores, start
from zodist.scale.cell import Cell
from zodist.scale.counters import LOOPBACK
from zodist.scale.sweep import Results
from zodist.scale.worker import MEET_S, Worker


def sweep_allocation(
    cells: Sequence[Cell], out: Path, *, steps: int, warmup: int, limit_s: float, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure the cells of as many workers as were started, which have no line yet; all lines, on worker 0.

    Raises ConfigError if no cell fits the allocation.
    """
    import torch.distributed as dist

    from zodist.exchange import open_exchange, share

    begun = start(cores())
    fitting = [cell for cell in cells if cell.workers == begun.workers and not cell.link.shaped]
    if not fitting:
        raise ConfigError(
            f"{begun.workers} workers were started, and links are as they are: give --workers {begun.workers} --rates none "
            "--delays 0"
        )
    if begun.by != "torch" and any(cell.system != "zodist" for cell in fitting):
        raise ConfigError(
            "the other systems meet through torchrun's variables; start with torchrun, or --systems zodist"
        )
    with closing(open_exchange("auto", MEET_S)) as exchange:
        if begun.by == "torch":
            dist.init_process_group("gloo", timeout=timedelta(seconds=MEET_S))
        results = Results(out, limit_s) if exchange.worker == 0 else None
        left = b"".join(bytes([cell in results.left(fitting)]) for cell in fitting) if results else None
        wanted = share(exchange, left)
        one_host = begun.beside == begun.workers
        worker = Worker()
        worker.exchange, worker.interface = exchange, LOOPBACK if one_host else ""
        link = worker.link(None)
        here = {
            "hosts": f"{os.environ.get('SLURM_JOB_NUM_NODES', 'the')} hosts of the allocation",
            "not_shaped": "",
        }
        for cell, is_left in zip(fitting, wanted, strict=True):
            if not is_left:
                continue
            figures = worker.cell(cell.plain(), steps, warmup, limit_s)
            if results is not None:
                results.add(cell, {**figures, **here, "link": link, "beside": begun.beside})
                say(f"{cell}: measured")
        if begun.by == "torch":
            dist.destroy_process_group()
        return results.lines if results is not None else []
