"""What stands where in the store, and what the messages there hold.

    config          the run's settings as TOML                      by the supervisor
    begun           threads and versions that the run was begun with    by the first worker, or from the journal
    proposal        the journal's header                            by the first worker of a new run
    header          the header that counts                          by the supervisor
    present         the evaluations that are known; there when all else is
    joined, join/n  count of connections; who the n-th is
    announced, announce/n   count of opened collections; the name of the n-th
    lines/t         lines of metrics.jsonl that step t makes        by the first worker to get there
    written         the last step whose lines are on disk           by the supervisor
    vote/n          digest of the n-th worker's weights, which its results repeat
    traffic/n       bytes that the n-th worker has sent and received, and its seconds
    gone, left/n    count of connections that ended in good order; the n-th did
    finished        the last step is done

and for each collection, by its name

    opened          who opened it, and a hash of what it is
    what            the description (What)
    claims/m        counter of the items claimed in turn m
    item/i          the result of item i
    turn/m          what the supervisor says after turn m - 1: done, or which items are still needed (Turn)
    done            all results (Done)

Round i of the journal is the collection "round/i": so the published rounds are a list.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass

import numpy as np

from zodist.elastic.frames import Refused
from zodist.step import Entry, Groups

ROUND = "round/"
_VERDICT = struct.Struct("<IBQ")
_DONE = struct.Struct("<BIIdI")
_MAX_ITEMS = 1 << 24


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the digests after ``milestone`` steps say: "" nothing yet, "agreed" on a digest, or "contested"."""

    milestone: int = 0
    word: str = ""
    digest: int = 0


_WORDS = ("", "agreed", "contested")


@dataclass(frozen=True, slots=True)
class What:
    """A collection: number of items and payload bytes of each; for a round, also what the journal needs.

    An item of a round is a group of probes, with a record for each and for those that a short group lacks.  seeds:
    hexadecimal, 16 digits a record.  lanes, group: lanes of data and probes of a group.
    """

    count: int
    size: int
    step: int = 0
    round: int = 0
    lr: float = 0.0
    losses: int = 0
    seeds: str = ""
    lanes: int = 1
    group: int = 1

    @property
    def groups(self) -> Groups:
        """The records of each item of a round."""
        return Groups(len(self.seeds) // 16, self.lanes, self.group)

    def to_bytes(self) -> bytes:
        """The same bytes for the same collection."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def hash(self) -> bytes:
        """16 bytes that tell whether two workers mean the same."""
        return hashlib.sha256(self.to_bytes()).digest()[:16]

    def numbers(self) -> np.ndarray:
        """The seeds, uint64 [records]."""
        return np.frombuffer(bytes.fromhex(self.seeds), ">u8").astype(np.uint64)

    @staticmethod
    def of(data: bytes) -> What:
        """Read a description; raises Refused if it is not one."""
        try:
            what = What(**json.loads(data))
            plain = (what.count, what.size, what.step, what.round, what.losses, what.lanes, what.group)
            sound = all(type(number) is int and 0 <= number < 1 << 53 for number in plain)
            sound = sound and 0 < what.count <= _MAX_ITEMS and isinstance(what.lr, float)
            sound = sound and what.lanes > 0 < what.group <= _MAX_ITEMS // what.count
            sound = sound and (not what.losses or len(what.numbers()) == what.groups.items)
            sound = sound and (not what.losses or what.groups.count == what.count)
        except (ValueError, TypeError) as error:
            raise Refused(f"it describes no collection ({error})") from error
        if not sound:
            raise Refused("it describes no collection")
        return what


def hexadecimal(seeds: np.ndarray) -> str:
    """Seeds as What has them."""
    return seeds.astype(">u8").tobytes().hex()


@dataclass(frozen=True, slots=True)
class Turn:
    """After a turn: the items still needed, none if the collection is done; and the verdict on the weights."""

    needed: tuple[int, ...]
    verdict: Verdict

    def to_bytes(self) -> bytes:
        """The payload of the message."""
        return _verdict_bytes(self.verdict) + np.array(self.needed, "<u4").tobytes()

    @staticmethod
    def of(data: bytes) -> Turn:
        """Read a payload; raises Refused if it is not one."""
        verdict, rest = _split(data)
        if len(rest) % 4:
            raise Refused("it lists no items")
        return Turn(tuple(int(item) for item in np.frombuffer(rest, "<u4")), verdict)


@dataclass(frozen=True, slots=True)
class Done:
    """All payloads in item order, one after the other; whether all shall stop; and the verdict on the weights.

    place: (step, round, lr, losses of an item) of a round.
    """

    payload: bytes
    stop: bool
    verdict: Verdict
    place: tuple[int, int, float, int] = (0, 0, 0.0, 0)

    def to_bytes(self) -> bytes:
        """The payload of the message."""
        return _verdict_bytes(self.verdict) + _DONE.pack(self.stop, *self.place) + self.payload

    def entry(self) -> Entry:
        """The journal's entry of a round.  Raises Refused if it is none."""
        step, round_, lr, losses = self.place
        if not losses or len(self.payload) % (4 * losses):
            raise Refused("it is no round")
        values = np.frombuffer(self.payload, "<f4").reshape(-1, losses).astype(np.float32)
        return Entry(step, round_, lr, values)

    @staticmethod
    def of(data: bytes) -> Done:
        """Read a payload; raises Refused if it is not one."""
        verdict, rest = _split(data)
        if len(rest) < _DONE.size:
            raise Refused("it is too short")
        stop, *place = _DONE.unpack_from(rest)
        return Done(rest[_DONE.size :], bool(stop), verdict, tuple(place))

    @staticmethod
    def round(entry: Entry, stop: bool, verdict: Verdict) -> Done:
        """A round as it is published."""
        values = entry.values
        place = (entry.step, entry.round, entry.lr, values.shape[1])
        return Done(values.astype("<f4").tobytes(), stop, verdict, place)


def _verdict_bytes(verdict: Verdict) -> bytes:
    return _VERDICT.pack(verdict.milestone, _WORDS.index(verdict.word), verdict.digest)


def _split(data: bytes) -> tuple[Verdict, bytes]:
    if len(data) < _VERDICT.size or data[4] >= len(_WORDS):
        raise Refused("it holds no verdict")
    milestone, word, digest = _VERDICT.unpack_from(data)
    return Verdict(milestone, _WORDS[word], digest), data[_VERDICT.size :]
