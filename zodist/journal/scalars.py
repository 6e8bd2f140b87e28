"""Figures of a run as it goes, for TensorBoard and Weights & Biases; the run itself never reads them.

Written by the process that writes metrics.jsonl, line by line.  A run that goes on after an interruption goes on in the same
place: TensorBoard drops what was written beyond the step it starts from, Weights & Biases keeps the first of two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from zodist.config import Config, Output
from zodist.errors import ConfigError, JournalError

FOLDER = "tensorboard"
_FLUSH_S = 10  # what a killed process loses


class _Place(Protocol):
    """Where scalars go."""

    def write(self, step: int, figures: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def require(output: Output) -> None:
    """Raise ConfigError if a package that [output] asks for is not installed."""
    if output.tensorboard and find_spec("tensorboard") is None:
        raise ConfigError(
            "output.tensorboard = true needs the package tensorboard: pip install 'zodist[tensorboard]'"
        )
    if output.wandb and find_spec("wandb") is None:
        raise ConfigError("output.wandb = true needs the package wandb: pip install wandb")


class Scalars:
    """Everything that [output] asks for; nothing if it asks for nothing.

    run: the journal's name of the run.  step: the one that the session starts from.  traffic: bytes sent and received so
    far, by name.
    """

    def __init__(
        self,
        config: Config,
        run: str,
        step: int,
        traffic: Callable[[], dict[str, int]] = dict,
    ) -> None:
        self._traffic = traffic
        self._places: list[_Place] = []
        folder = Path(config.run.folder)
        require(config.output)
        if config.output.tensorboard:
            self._places.append(_TensorBoard(folder / FOLDER, step))
        if config.output.wandb:
            self._places.append(_Wandb(config, folder, run))

    def write(self, line: dict[str, Any]) -> None:
        """The figures of a line of metrics.jsonl."""
        if not self._places:
            return
        figures = scalars(line)
        if "slope" in line:
            figures |= {f"bytes/{name}": float(count) for name, count in self._traffic().items()}
        if figures:
            for place in self._places:
                place.write(line["step"], figures)

    def close(self) -> None:
        """Write what is left."""
        for place in self._places:
            place.close()


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a line of metrics.jsonl by tag: train/... of a step, <split>/... of an evaluation."""
    if "slope" in line:
        group, names = "train", ("loss", "slope", "lr", "forwards", "skipped", "outliers")
    else:
        group, names = line.get("split", ""), ("loss", "accuracy", "calibrated", "f1", "exact", "reward")
    known = {f"{group}/{name}": line[name] for name in names if group and line.get(name) is not None}
    return {tag: float(value) for tag, value in known.items() if math.isfinite(value)}


class _TensorBoard:
    """Event files in the run folder."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=_FLUSH_S)
        except OSError as error:
            raise JournalError(f"cannot write {folder}: {error.strerror}; the journal is intact") from error

    def write(self, step: int, figures: dict[str, float]) -> None:
        for tag, value in figures.items():
            self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases that has the journal's name."""

    def __init__(self, config: Config, folder: Path, run: str) -> None:
        import wandb  # type: ignore[import-not-found]

        self._run = wandb.init(
            project="zodist", id=run, name=folder.name, dir=str(folder), resume="allow", config=config.plain()
        )

    def write(self, step: int, figures: dict[str, float]) -> None:
        self._run.log(figures, step=step)

    def close(self) -> None:
        self._run.finish()
