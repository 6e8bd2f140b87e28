"""The rates of a machine and of its network: measured by ``zodist plan --calibrate``, kept as a JSON file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zodist.errors import ConfigError
from zodist.journal import write_whole

Dtype = Literal["float32", "bfloat16", "float16"]
BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


class Pace(BaseModel):
    """Numbers a second of one law of noise on weights of one type.

    pair: numbers drawn and added to the weights for the two points of a probe.  fold: weights moved by coded directions,
    rounding included.  seed: numbers that each further independent direction draws in the same pass.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pair: float = Field(gt=0)
    fold: float = Field(gt=0)
    seed: float = Field(gt=0)


class Link(BaseModel):
    """A network between workers.

    round_s: median seconds of a round in which each of ``workers`` sends every other one 16 bytes; peer_s: what each further
    worker adds.  rate: bytes a second that a worker sends, 0: not limited or not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: int = Field(ge=1)
    round_s: float = Field(ge=0)
    peer_s: float = Field(default=0.0, ge=0)
    rate: float = Field(default=0.0, ge=0)
    what: str = ""


class Calibration(BaseModel):
    """What one worker's machine can do.

    products: floating-point operations a second of matrix products, by dtype and rows of the input.  noise: by
    "law/dtype".  touch: numbers a second that pass between products, by dtype: norms, activations, attention's rest.
    copy_rate: bytes read and written a second.  call_s: seconds of a call of one leaf module in a forward
    besides its numbers, move_s: of one in an update.  fixed_s: seconds of a step that depend on nothing: the journal.
    cores: of the machine, threads: of the worker that was measured.  spread: standard deviation of the logarithm of a
    step's forward time.  measured: when; "" for constants that nobody measured here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    machine: str
    measured: str
    device: str
    cores: int = Field(ge=1)
    threads: int = Field(ge=1)
    products: dict[str, dict[int, float]]
    noise: dict[str, Pace]
    touch: dict[str, float]
    copy_rate: float = Field(gt=0)
    call_s: float = Field(ge=0)
    move_s: float = Field(ge=0)
    fixed_s: float = Field(ge=0)
    spread: float = Field(ge=0)
    link: Link

    def pace(self, law: str, dtype: str) -> Pace:
        """The rates of a law.  Raises ConfigError if they are not known."""
        found = self.noise.get(f"{law}/{dtype}")
        if found is None:
            raise ConfigError(
                f"the calibration has no rates of {law} noise on {dtype} weights, only of {', '.join(self.noise)}; "
                "choose one of them, or measure again with zodist plan --calibrate"
            )
        return found

    def rate(self, dtype: str, rows: int) -> float:
        """Operations a second of products with so many rows: between measured numbers of rows by their logarithm.

        Raises ConfigError if the dtype is not known.
        """
        if dtype not in self.products:
            raise ConfigError(
                f"the calibration has no products of {dtype}, only of {', '.join(self.products)}; choose one of them"
            )
        known = sorted(self.products[dtype].items())
        places, rates = [math.log(count) for count, _ in known], [rate for _, rate in known]
        return float(np.interp(math.log(max(1, rows)), places, rates))


# An accelerator of the H100's class on a 100 Gbit/s network.  Derived, not measured: dense products at 4e14 a second, 3e12
# bytes a second of memory, 3e11 Gaussian and 5e12 Rademacher numbers a second, 30 µs a message.
_DRAWN = {"gaussian": 3e11, "rademacher": 5e12}
REFERENCE = Calibration(
    machine="reference constants of an H100-class accelerator, not measured",
    measured="",
    device="cuda",
    cores=1,
    threads=1,
    products={"bfloat16": {4096: 4e14}, "float16": {4096: 4e14}, "float32": {4096: 4e14 / 8}},
    noise={
        f"{law}/{dtype}": Pace(
            pair=min(drawn, 3e12 / (3 * size)), fold=min(drawn, 3e12 / (2 * size)), seed=drawn
        )
        for law, drawn in _DRAWN.items()
        for dtype, size in BYTES.items()
    },
    touch={dtype: 3e12 / (2 * size) for dtype, size in BYTES.items()},
    copy_rate=3e12,
    call_s=0.0,
    move_s=0.0,
    fixed_s=0.0,
    spread=0.1,
    link=Link(workers=2, round_s=3e-5, rate=100e9 / 8, what="assumed: 100 Gbit/s, 30 µs"),
)


def write_calibration(path: Path, found: Calibration) -> None:
    """Put a calibration into a file.  Raises JournalError if that fails."""
    write_whole(path, found.model_dump_json(indent=1) + "\n")


def read_calibration(path: Path) -> Calibration:
    """The calibration of a file.  Raises ConfigError if it is none."""
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"cannot read the calibration {path}: {error.strerror}; make one with zodist plan --calibrate"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise ConfigError(
            f"{path} is no calibration of this version ({place}: {first['msg']}); make one with zodist plan --calibrate"
        ) from error
