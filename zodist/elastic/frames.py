"""The bytes of a message in the store: bounded, checked against accidents, and sealed with a secret if there is one.

    magic "zod1" · run 8 · item 4 · worker 4 · seconds 4 · milestone 4 · fresh 1 · digest 8 · name length 2 ·
    payload length 4 · name · payload · seal

Little endian.  The seal is the CRC-32 of all before it, or, with a shared secret, its HMAC-SHA256.  The name says which
collection or key a message belongs to, so that none can stand in for another; a worker's number is new each time it
connects.  Nothing is unpickled, and no length is believed before it has been compared with what is expected.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from dataclasses import dataclass

_HEAD = struct.Struct("<4sQIIfIBQHI")
_MAGIC = b"zod1"
_CRC_BYTES, _HMAC_BYTES = 4, 32
MAX_BYTES = 8 << 20  # what the store itself accepts as one value
NO_RUN = "0" * 16  # before the workers know which run it is


class Refused(Exception):
    """A message that is not what it should be; the text says why, for the log."""


@dataclass(frozen=True, slots=True)
class Vote:
    """The digest of a worker's weights after ``milestone`` steps (0: none yet).  fresh: rebuilt since that step."""

    milestone: int = 0
    digest: int = 0
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """A message.  seconds: what its item took to compute."""

    name: str
    item: int
    payload: bytes
    worker: int = 0
    seconds: float = 0.0
    vote: Vote = Vote()


class Seal:
    """Makes messages of a run and opens those of others.

    run: 16 hex digits.  secret: the shared key; b"" for a checksum alone.
    """

    def __init__(self, secret: bytes = b"", run: str = NO_RUN) -> None:
        self.run = run
        self._secret = secret

    def close(self, frame: Frame) -> bytes:
        """The bytes of a message."""
        name, vote = frame.name.encode(), frame.vote
        head = _HEAD.pack(
            _MAGIC,
            int(self.run, 16),
            frame.item,
            frame.worker,
            frame.seconds,
            vote.milestone,
            vote.fresh,
            vote.digest,
            len(name),
            len(frame.payload),
        )
        data = head + name + frame.payload
        sealed = data + self._tag(data)
        if len(sealed) > MAX_BYTES:
            raise ValueError(f"a message of {len(sealed)} bytes is longer than the store's {MAX_BYTES}")
        return sealed

    def open(self, data: bytes, name: str, item: int = 0, size: int | None = None) -> Frame:
        """The message of some bytes.  size: what the payload must have, in bytes (None: any).

        Raises Refused unless it is whole, sealed with our secret, of our run, and belongs to this name and item.
        """
        tag = _HMAC_BYTES if self._secret else _CRC_BYTES
        if not _HEAD.size + tag <= len(data) <= MAX_BYTES or data[:4] != _MAGIC:
            raise Refused(f"it is malformed ({len(data)} bytes)")
        if not hmac.compare_digest(data[-tag:], self._tag(data[:-tag])):
            raise Refused("its seal does not match: the bytes were changed, or the shared secret differs")
        head = _HEAD.unpack_from(data)
        _, run, its_item, worker, seconds, milestone, fresh, digest, name_length, length = head
        if _HEAD.size + name_length + length + tag != len(data):
            raise Refused("it is malformed (its lengths do not add up)")
        if run != int(self.run, 16):
            raise Refused(f"it is of another run ({run:016x})")
        its_name = data[_HEAD.size : _HEAD.size + name_length]
        if its_name != name.encode() or its_item != item:
            raise Refused(f"it belongs elsewhere ({its_name.decode(errors='replace')} item {its_item})")
        if size is not None and length != size:
            raise Refused(f"it holds {length} bytes, not {size}")
        payload = data[_HEAD.size + name_length : len(data) - tag]
        return Frame(name, item, payload, worker, seconds, Vote(milestone, digest, bool(fresh)))

    def _tag(self, data: bytes) -> bytes:
        if self._secret:
            return hmac.new(self._secret, data, hashlib.sha256).digest()
        return zlib.crc32(data).to_bytes(_CRC_BYTES, "little")
