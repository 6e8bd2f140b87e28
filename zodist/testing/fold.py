"""A run is a fold: snapshots in the middle, and journals in the model's place, give the same bits."""

from __future__ import annotations

import hashlib
from tempfile import TemporaryDirectory

import numpy as np
import torch

from zodist.config import settings as config
from zodist.errors import JournalEnd
from zodist.journal import snapshot
from zodist.methods import Probe
from zodist.step import RULES, Answer, Entry, Replayed, Replica, records
from zodist.testing.subject import Subject
from zodist.testing.toys import RUN, made_up, weights

STEPS, MIDDLE, LANES = 7, 3, 2
CASES = (("float32", "sgd"), ("bfloat16", "momentum"), ("float16", "sgd"))


class Recorded:
    """Answers with made-up losses, two data lanes to a probe, and keeps the rounds as a journal would."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def __call__(self, step: int, round: int, lr: float, probes: tuple[Probe, ...], lanes: int) -> np.ndarray:
        """The values of a round."""
        losses = np.repeat(made_up(step, round, probes), LANES, axis=0)
        losses[1::LANES] += 1e-4 * made_up(step + 50, round, probes)
        values = records.to_values(losses)
        self.entries.append(Entry(step, round, lr, values))
        return values


def machine(chosen: Subject, dtype: str = "float32", rule: str = "sgd", **wanted: object) -> Replica:
    """Toy weights, a new method, a rule."""
    settings = config.Rule.model_validate(
        {"name": rule, "lr": 1e-3, "schedule": "linear", "weight_decay": 0.01}
    )
    held = weights(getattr(torch, dtype))
    method = chosen.build(**wanted)
    return Replica(held, method, RULES[rule](settings, held), seed=RUN, steps=STEPS, data_lanes=LANES)


def bits(replica: Replica) -> dict[str, str]:
    """A digest of everything that the fold changes, by name."""
    made = {}
    for name, tensor in replica.state().items():
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        made[name] = hashlib.blake2b(flat.numpy().tobytes(), digest_size=8).hexdigest()
    return made


def advance(replica: Replica, answer: Answer, steps: int) -> Replica:
    """Fold in steps until so many are done."""
    while replica.step < steps:
        replica.advance(answer)
    return replica


def a_snapshot_in_the_middle_changes_no_bit(chosen: Subject) -> None:
    """state() is all there is: a new instance goes on from a file as if nothing had happened."""
    for dtype, rule in CASES:
        whole, first = machine(chosen, dtype, rule), machine(chosen, dtype, rule)
        wanted = bits(advance(whole, Recorded(), STEPS))
        advance(first, Recorded(), MIDDLE)
        for name, array in first.method.state().items():
            again = first.method.state()[name]
            if array.size and not np.shares_memory(array, again):
                raise AssertionError(
                    f"state()[{name!r}] is a copy; return the array itself, so that load() fills it"
                )
        with TemporaryDirectory() as folder:
            snapshot.save(folder, MIDDLE, first.state(), "0" * 16, 1)
            found = snapshot.newest(folder, "0" * 16, MIDDLE)
            if found is None:
                raise AssertionError("the state's snapshot cannot be read back")
            second = machine(chosen, dtype, rule)
            second.load(found.step, found.tensors)
        _same(bits(first), bits(second), f"load() of a snapshot of {dtype} weights does not bring back")
        _same(
            wanted,
            bits(advance(second, Recorded(), STEPS)),
            f"after a snapshot of {dtype} weights at step {MIDDLE}",
        )
        _same(bits(whole), wanted, "a run was changed by another instance:")


def a_replayed_journal_gives_the_same_bits(chosen: Subject) -> None:
    """The journal's values stand for the losses, under every coupling and noise law."""
    for variant in chosen.variants("coupling", "noise"):
        live, record = machine(chosen, "bfloat16", **variant), Recorded()
        wanted = bits(advance(live, record, STEPS))
        again = machine(chosen, "bfloat16", **variant)
        _same(wanted, bits(advance(again, Replayed(record.entries, LANES), STEPS)), "a replay differs:")


def a_journal_that_ends_within_a_step_ends_before_it(chosen: Subject) -> None:
    """A step that lacks rounds is left out whole; with live answers to the missing rounds the run goes on as ever."""
    live, record = machine(chosen), Recorded()
    advance(live, record, STEPS - 1)
    complete, before = len(record.entries), bits(live)
    wanted = bits(advance(live, record, STEPS))
    for kept in range(complete, len(record.entries)):
        torn = machine(chosen)
        try:
            advance(torn, Replayed(record.entries[:kept], LANES), STEPS)
        except JournalEnd:
            pass
        else:
            raise AssertionError(f"step {STEPS - 1} asked for fewer rounds in a replay than in the run")
        _same(before, bits(torn), f"a step without its round {kept - complete} left traces:")
        rounds, fresh = iter(record.entries[complete:kept]), Recorded()

        def answer(step, round, lr, probes, lanes, rounds=rounds, fresh=fresh) -> np.ndarray:
            entry = next(rounds, None)
            return fresh(step, round, lr, probes, lanes) if entry is None else entry.values

        _same(wanted, bits(advance(torn, answer, STEPS)), f"resumed at round {kept - complete} of a step")


def _same(wanted: dict[str, str], found: dict[str, str], what: str) -> None:
    if wanted != found:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise AssertionError(
            f"{what} {', '.join(odd[:3])} differs; whatever a later step depends on must be in state(), "
            "and change from (state, losses) alone"
        )
