"""Triton's kernels against numba's, bit for bit: on a GPU, or on CPU tensors where TRITON_INTERPRET=1 runs them in Python.

As a program, with a file's name: runs every case on the CPU and writes what went wrong, by case, "" for nothing.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from exact import DTYPES, HALVES, KINDS, PARAM, ROLE, ROUND_KEY, dress, random, setting, weights

from zodist import noise
from zodist.directions import Combination, Dense, Law, LowRank, Param, Projected, RankOne, Signed, address
from zodist.evaluator import Evaluator
from zodist.kernels import BFLOAT16, FLOAT16, FLOAT32, HOST, Kernels, Noise, on_cuda
from zodist.kernels import rules as formulas
from zodist.methods import Probe
from zodist.models import collect, digest
from zodist.noise import GAUSSIAN, RADEMACHER
from zodist.step import RULES

LAWS = (GAUSSIAN, RADEMACHER)
CASES: dict[str, Callable[[torch.device], None]] = {}


def case(function: Callable[[torch.device], None]) -> Callable[[torch.device], None]:
    CASES[function.__name__] = function
    return function


def both(name: str, device: torch.device, *arguments: Any, wrote: Sequence[int]) -> None:
    """Run a kernel of this name on the CPU and on the device; what it wrote, by place among the arguments, is equal."""
    kernels = on_cuda(device)
    ours = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    theirs = [sent(kernels, a) for a in arguments]
    getattr(HOST, name).serial(*ours)
    getattr(kernels, name).serial(*theirs)
    for place in wrote:
        got = theirs[place].cpu().numpy()
        want = ours[place].view(got.dtype)
        assert got.tobytes() == want.tobytes(), f"{name}: {(got != want).sum()} of {want.size} numbers differ"
        assert got.tobytes() != arguments[place].tobytes() or not got.size, f"{name} wrote nothing"


def sent(kernels: Kernels, value: Any) -> Any:
    if isinstance(value, Noise):
        return Noise(*(sent(kernels, v) for v in value))
    if isinstance(value, tuple):
        return tuple(sent(kernels, v) for v in value)
    return kernels.send(value.copy()) if isinstance(value, np.ndarray) else value


def room(kind: int, *shape: int) -> np.ndarray:
    return np.full(shape, 0xAB, np.uint32 if kind == FLOAT32 else np.uint16)


def floats(seed: int, *shape: int) -> np.ndarray:
    return random(seed).standard_normal(shape).astype(np.float32)


def full_dress(points: int, n: int) -> tuple:
    curvature = np.abs(floats(1, n)) + np.float32(0.1)
    return dress(points, share=0.3, mean=floats(2, n), curvature=curvature, below=0.04)


@case
def perturb(device: torch.device) -> None:
    """Ranges inside a shard, cut at both ends, for each dtype and law; one, two and no base seeds; a full dress."""
    cases = [(GAUSSIAN, kind, kind, 1) for kind in KINDS] + [(RADEMACHER, kind, kind, 1) for kind in KINDS]
    cases += [
        (GAUSSIAN, FLOAT32, BFLOAT16, 2),
        (RADEMACHER, FLOAT16, FLOAT32, 2),
        (GAUSSIAN, BFLOAT16, FLOAT32, 0),
    ]
    for number, (law, kind, out_kind, bases) in enumerate(cases):
        start, n, points = 1000 + 8 * number, 600 + 16 * number, 1 + number % 2
        words, (keys, tables) = weights(kind, n + 30), setting(number, points, bases, 1024 << number % 3)
        dressed = full_dress(points, len(words)) if number % 2 else dress(points)
        outs = room(out_kind, points, 1, n)
        place = kind, out_kind, words, start - 20, start, start + n
        both("perturb", device, *place, outs, Noise(law, keys, tables, PARAM, ROLE), dressed, wrote=[6])


@case
def directions_alone_and_aligned_ranges(device: torch.device) -> None:
    for law in LAWS:
        words, (keys, tables) = weights(BFLOAT16, 2048), setting(3, 2, 1, 2048)
        for keep in (True, False):
            outs = room(BFLOAT16, 2, 1, 2048)
            place = BFLOAT16, BFLOAT16, words, 1024, 1024, 3072, outs
            both(
                "perturb",
                device,
                *place,
                Noise(law, keys, tables, PARAM, ROLE),
                dress(2, keep=keep),
                wrote=[6],
            )


@case
def indices_beyond_32_bits(device: torch.device) -> None:
    origin = 2**40 + 1001
    for law in LAWS:
        words, (keys, tables) = weights(FLOAT32, 60), setting(3, 1, 1, 2048)
        place = FLOAT32, FLOAT32, words, origin, origin, origin + 60, room(FLOAT32, 1, 1, 60)
        both("perturb", device, *place, Noise(law, keys, tables, PARAM, ROLE), dress(), wrote=[6])


@case
def rows(device: torch.device) -> None:
    """Rows may repeat, and cross from one tile to the next."""
    for law in LAWS:
        words, (keys, tables) = weights(BFLOAT16, 1200), setting(4, 2, 1, 1024)
        starts = np.array([1160, 40, 1000, 40], np.int64)
        place = BFLOAT16, FLOAT32, words, 0, starts, 40, room(FLOAT32, 2, 4, 40)
        both("perturb_rows", device, *place, Noise(law, keys, tables, PARAM, ROLE), dress(2), wrote=[6])


@case
def update(device: torch.device) -> None:
    for number, (law, kind) in enumerate((law, kind) for law in LAWS for kind in KINDS):
        decay = np.float32(0.01 * (number % 3))  # 0 too, which the kernels leave out
        words, (keys, tables) = weights(kind, 900 + number), setting(number, 1, 1 + number % 2, 2048)
        dressed = full_dress(1, len(words)) if number % 2 else dress()
        move = Noise(law, keys, tables[:1], PARAM, ROLE), dressed, decay, ROUND_KEY
        both("update", device, kind, words, 600 + number, *move, wrote=[1])


@case
def every_half_word_is_read_and_written(device: torch.device) -> None:
    """All 65,536 of each kind: as float32, and back with nothing added."""
    none, every = setting(0, 1, 0, 1024), np.arange(1 << 16).astype(np.uint16)
    for kind in HALVES:
        for out_kind in (kind, FLOAT32):
            place = kind, out_kind, every, 0, 0, 1 << 16, room(out_kind, 1, 1, 1 << 16)
            both("perturb", device, *place, Noise(RADEMACHER, *none, PARAM, ROLE), dress(), wrote=[6])


def awkward() -> np.ndarray:
    """float32 numbers of every size, ties, subnormals, infinities and numbers that are none."""
    bits = random(5).integers(0, 2**32, 1500, dtype=np.uint64).astype(np.uint32)
    sizes = np.repeat(np.arange(0x33000000, 0x48000000, 0x01000000 >> 1, dtype=np.uint32), 8)
    ties = sizes + np.tile(
        np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001], np.uint32), len(sizes) // 8
    )
    special = np.array(
        [0, 1, 0x7FFFFF, 0x7F800000, 0x7FC00000, 0x477FF000, 0x477FEFFF, 0x7F7FFFFF], np.uint32
    )
    positive = np.concatenate([ties, special])
    return np.concatenate([bits, positive, positive | np.uint32(1 << 31)])


@case
def awkward_numbers_are_rounded_alike(device: torch.device) -> None:
    """To nearest, as the weights of a master copy; stochastically, as the result of an update."""
    words = awkward()
    keys, tables = setting(0, 1, 0, 1024)
    for kind in HALVES:
        outs = room(kind, 1, 1, len(words))
        place = FLOAT32, kind, words, 0, 0, len(words), outs, Noise(RADEMACHER, keys, tables, PARAM, ROLE)
        both("perturb", device, *place, dress(), wrote=[6])
        mean = words.view(np.float32)
        moved = (
            Noise(RADEMACHER, keys, tables[:1], PARAM, ROLE),
            dress(share=1.0, mean=np.where(np.isnan(mean), 1, mean)),
        )
        zeros = np.zeros(len(words), np.uint16)
        both("update", device, kind, zeros, 5, *moved, np.float32(1.0), ROUND_KEY, wrote=[1])


@case
def digests(device: torch.device) -> None:
    kernels = on_cuda(device)
    for kind in KINDS:
        for n in (1, 5000):
            words = weights(kind, n)
            want = int(HOST.digest.serial(words, 2**40 + 7, PARAM))
            assert kernels.digest.serial(kernels.send(words), 2**40 + 7, PARAM) == want


@case
def rules(device: torch.device) -> None:
    """Subnormal moments too: nothing is flushed to zero."""
    factors = {
        formulas.SGD: [],
        formulas.SIGN: [],
        formulas.MOMENTUM: [0.9],
        formulas.ADAM: [0.9, 0.999, 3.3, 1e-8],
    }
    n, none = 1100, np.empty(0, np.float32)
    for number, (rule, rest) in enumerate(factors.items()):
        kind = KINDS[number % 3]
        gradient, first, second = floats(number, n), floats(8, n), floats(9, n) ** 2
        gradient[::5], first[::3] = 0.0, first[::3] * np.float32(1e-38)
        second[::3] *= np.float32(1e-39)
        first, second = (
            (first if rule >= formulas.MOMENTUM else none),
            (second if rule == formulas.ADAM else none),
        )
        every = np.array([0.99, 1e-2, *rest], np.float32)
        place = rule, kind, weights(kind, n), 1001, gradient, first, second
        wrote = [2, *([5] if len(first) else []), *([6] if len(second) else [])]
        kernels = on_cuda(device)
        ours, theirs = [_copy(a) for a in place], [sent(kernels, a) for a in place]
        HOST.move.serial(*ours, every, PARAM, ROUND_KEY)
        kernels.move.serial(*theirs, every, PARAM, ROUND_KEY)
        for at in wrote:
            assert theirs[at].cpu().numpy().tobytes() == ours[at].tobytes(), (rule, at)


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


@case
def noises(device: torch.device) -> None:
    keys = np.array([5, 2**63 + 7], np.uint64)
    for law in LAWS:
        both(
            "noises", device, law, keys, PARAM, np.uint64(noise.U), np.zeros((2, 1100), np.float32), wrote=[4]
        )


def parameters(device: torch.device, kind: int) -> tuple[list[Param], list[Param]]:
    """The same small parameters with the CPU's kernels and with the device's."""
    made = []
    for kernels, where in ((HOST, torch.device("cpu")), (on_cuda(device), device)):
        held = []
        for name, shape in (("w", (24, 48)), ("b", (9,))):
            words = torch.from_numpy(weights(kind, int(np.prod(shape)), len(name)).copy()).view(DTYPES[kind])
            flat = words.to(where)
            held.append(Param(name, address(name), shape, flat, flat, kernels=kernels))
        made.append(held)
    return made[0], made[1]


def thin(combinations: Sequence[Combination], cache: Any) -> tuple[np.ndarray, np.ndarray]:
    amounts = np.array([c.weights.sum() for c in combinations], np.float32)[:, None, None]
    return floats(3, 1, 24, 3) * amounts, floats(4, 1, 3, 48)


class Settings:
    """What a rule reads."""

    lr, momentum, beta2, epsilon, weight_decay, schedule, warmup = 0.1, 0.9, 0.99, 1e-8, 0.1, "constant", 0


EVERY: list[Law] = [
    Dense(GAUSSIAN, True),
    Dense(RADEMACHER, False),
    RankOne(),
    Signed(GAUSSIAN),
    LowRank(thin),
    Projected(Dense(GAUSSIAN, True), floats(6, 48), *np.array([[0.02], [1.0]], np.float32)),
]
POINTS = [Combination.of((7 << 16 | n, 1e-2 * (n + 1))) for n in range(2)]


def points_at(law: Law, param: Param, rows: bool) -> np.ndarray:
    """Every row of a matrix at two points, or a vector."""
    n, out_of = param.weights.numel(), param.weights
    laid = law.lay(param, POINTS, {})
    out = torch.zeros(2, n, dtype=out_of.dtype, device=out_of.device)
    if rows:
        index = torch.tensor([21, 0], device=out_of.device)
        out = out[:, : 2 * param.shape[1]].reshape(2, 2, -1).contiguous()
        laid.rows_(param, index, out)
    else:
        laid.write_(param, 0, n, out)
    return out.float().cpu().numpy()


@case
def laws(device: torch.device) -> None:
    """Each law's points, whole and by rows, and its plain update, through what a forward and a rule call."""
    for number, law in enumerate(EVERY):
        ours, theirs = parameters(device, KINDS[number % 3])
        wanted = slice(0, 1) if isinstance(law, (LowRank, Projected)) else slice(0, 2)
        for a, b in zip(ours[wanted], theirs[wanted], strict=True):
            for rows in (False, True)[: len(a.shape)]:
                assert points_at(law, a, rows).tobytes() == points_at(law, b, rows).tobytes(), (
                    law,
                    a.name,
                    rows,
                )
        for held in (ours[wanted], theirs[wanted]):
            rule = RULES["sgd"](Settings(), held)
            rule.apply_(POINTS[0] + POINTS[1], {p.id: law for p in held}, 0.1, 12345)
        assert digest(ours) == digest(theirs), law


@case
def rules_over_laws(device: torch.device) -> None:
    """Two steps of each rule that keeps a state, on dense and on rank-one directions."""
    for name, law in (("momentum", EVERY[1]), ("adam", EVERY[2]), ("sign", EVERY[1])):
        ours, theirs = (held[:1] for held in parameters(device, BFLOAT16))
        for held in (ours, theirs):
            rule = RULES[name](Settings(), held)
            for step in range(2):
                rule.apply_(POINTS[step], {p.id: law for p in held}, 1e-3, step)
        assert digest(ours) == digest(theirs), name


@case
def forwards(device: torch.device) -> None:
    """Losses of a whole model at two points: where the model runs on the CPU, the same to the bit with either kernels.

    On a GPU the products are summed in other orders: float32 rounding of a two-layer model with losses of order one.
    """
    from models import batch, tiny

    found = []
    for kernels, where in ((HOST, torch.device("cpu")), (on_cuda(device), device)):
        model, b = tiny("llama-tied").to(where), batch(columns=True)
        chosen = [replace(p, kernels=kernels) for p in collect(model, "layers.1|norm|embed")]
        for law in (EVERY[1], EVERY[2]):
            evaluator = Evaluator(model, chosen, dict.fromkeys((p.id for p in chosen), law))
            found.append(evaluator.losses(POINTS, [b]))
            if isinstance(law, RankOne):
                points = tuple(Combination.of((7 << 16 | n, 1e-2)) for n in range(b.examples))
                found.append(evaluator.single_losses(Probe(0, points, b.examples), [b]))
            evaluator.close()
    for ours, theirs in zip(found[:3], found[3:], strict=True):
        assert len(set(ours.tolist())) > 1, "the points must differ for this to mean anything"
        if device.type == "cpu":
            assert ours.tobytes() == theirs.tobytes()
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=3e-5)


if __name__ == "__main__":
    from triton_matrix_cases import CASES as ALL

    found = {}
    for name, function in ALL.items():
        try:
            function(torch.device("cpu"))
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    Path(sys.argv[1]).write_text(json.dumps(found))
