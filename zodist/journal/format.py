"""The bytes of a journal, format zodist-journal/1: lines and what they mean, without any file.

The file is ASCII; every line ends with one newline (0x0a) and is one JSON object

    <body>,"crc":"xxxxxxxx"}

where x.. is the CRC-32 (zlib) of the bytes of <body>, eight lower-case hexadecimal digits.  Line 1 is the
header,

    {"format":"zodist-journal/1","run":"<16 hex>",<the other fields, keys sorted>,"crc":...}

with `run` the first 16 digits of the SHA-256 of the canonical JSON (keys sorted, no spaces, ASCII) of the
header without `run` and `crc`.  Every further line is one round,

    {"t":<step>,"r":<round>,"lr":<shortest decimal of a float64>,"k":<values per probe>,"v":"<base64>",...}

with v the values (records.py) of all probes in order, float32 little endian.  Steps count from 0 without
gaps, rounds of a step from 0 without gaps.  Nothing in it depends on workers, hosts or time: the journal of
a run is the same file for any number of workers.

A process that dies while it writes leaves a torn tail: after the last newline, the beginning of a line,
possibly followed by zero bytes where the file system had not yet written the data.  It was never
acknowledged and is dropped.  Everything else that is not a journal is damage and an error that names the
line: CRC-32 finds every single flipped bit of a body, and the rest of a line has only one right spelling.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zodist.errors import JournalError
from zodist.step import Entry

FORMAT = "zodist-journal/1"
FIRST_STEP = 0
_SEAL = re.compile(rb',"crc":"[0-9a-f]{8}"\}')
_SEAL_BYTES = len(',"crc":"00000000"}')
_NUMBER = rb"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?"
_ROUND = re.compile(
    rb'\{"t":([0-9]+),"r":([0-9]+),"lr":(' + _NUMBER + rb'),"k":([0-9]+),"v":"([A-Za-z0-9+/]+=*)"'
)


def _beginning_of(*parts: bytes) -> re.Pattern[bytes]:
    """The pattern that matches every beginning of a line, made of literal parts and [character classes]."""
    atoms: list[bytes] = []
    for part in parts:
        if part.startswith(b"["):
            atoms.append(part + b"+")
        else:
            atoms += [re.escape(part[i : i + 1]) for i in range(len(part))]
    pattern = b""
    for atom in reversed(atoms):
        pattern = b"(?:" + atom + pattern + b")?"
    return re.compile(pattern)


_BEGINNING = _beginning_of(
    *(b'{"t":', b"[0-9]", b',"r":', b"[0-9]", b',"lr":', b"[0-9.e+-]", b',"k":', b"[0-9]"),
    *(b',"v":"', b"[A-Za-z0-9+/=]", b'","crc":"', b"[0-9a-f]", b'"}'),
)
_HEADER_BEGINNING = f'{{"format":"{FORMAT}","run":"'.encode()


@dataclass(frozen=True)
class Contents:
    """What a journal holds; `end` is the offset after the last good line, `torn` tells if more follows."""

    header: dict[str, Any]
    entries: list[Entry]
    end: int
    torn: bool


def run_id(header: Mapping[str, Any]) -> str:
    """The 16 hexadecimal digits that name the run of a header; fields `run` and `crc` are left out."""
    content = {"format": FORMAT, **{key: value for key, value in header.items() if key not in ("run", "crc")}}
    return hashlib.sha256(_canonical(content)).hexdigest()[:16]


def difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """The first setting in which two headers differ: "rule.lr is 0.1 there, 0.2 here"; "" if in none."""
    for key in sorted({*found, *expected} - {"format", "run", "crc"}):
        here, there = expected.get(key), found.get(key)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            inner = difference(there, here)
            if inner:
                return f"{key}.{inner}"
        elif key not in found or key not in expected or _canonical(here) != _canonical(there):
            words = ["absent" if key not in side else json.dumps(side[key]) for side in (found, expected)]
            return f"{key} is {words[0]} there, {words[1]} here"
    return ""


def parse(data: bytes, path: str | Path) -> Contents:
    """The contents of a journal's bytes, every line checked; path is for the messages.

    Raises JournalError naming file and line if anything but a torn tail is wrong.
    """
    header: dict[str, Any] = {}
    entries: list[Entry] = []
    start = number = 0
    while (stop := data.find(b"\n", start)) >= 0:
        number += 1
        body = _unsealed(data[start:stop], path, number)
        if number == 1:
            header = _parse_header(body, path)
        else:
            entry = _parse_round(body, path, number)
            if not follows(entry.step, entry.round, entries[-1] if entries else None):
                raise JournalError(
                    f"{path}:{number}: step {entry.step} round {entry.round} comes after {place(entries)}; a"
                    " line is missing, repeated or out of place: restore the file, or cut it before this line"
                )
            entries.append(entry)
        start = stop + 1
    tail = data[start:]
    if number == 0:
        raise JournalError(
            f"{path}:1: there is no complete header; delete the file, or name a zodist journal"
        )
    text = tail.rstrip(b"\0")
    if not _BEGINNING.fullmatch(text) or (text != tail and _SEAL.search(text)):
        raise JournalError(
            f"{path}:{number + 1}: the line is damaged and has no end: restore the file, or cut it before"
            " this line to go on from there"
        )
    return Contents(header, entries, start, bool(tail))


def follows(step: int, round_: int, last: Entry | None) -> bool:
    """True if a round may come directly after another one, or first if that is None."""
    if last is None:
        return (step, round_) == (FIRST_STEP, 0)
    return (step, round_) in ((last.step, last.round + 1), (last.step + 1, 0))


def place(entries: list[Entry]) -> str:
    """The last round in words, for messages."""
    return f"step {entries[-1].step} round {entries[-1].round}" if entries else "the header"


def line_of(entry: Entry) -> bytes:
    """The line of a round, newline included."""
    values, lr = entry.values, float(entry.lr)
    if values.dtype != np.float32 or values.ndim != 2 or not values.size or not math.isfinite(lr):
        raise ValueError(f"a round has float32 values [probes, k] and a finite lr; got {values!r} and {lr}")
    text = base64.b64encode(values.astype("<f4", copy=False).tobytes()).decode()
    k = values.shape[1]
    body = f'{{"t":{int(entry.step)},"r":{int(entry.round)},"lr":{lr!r},"k":{k},"v":"{text}"'.encode()
    return body + _seal(body) + b"\n"


def header_line(header: Mapping[str, Any]) -> bytes:
    """The first line of a journal, newline included; header is without "format", "run" and "crc"."""
    content = {"format": FORMAT, "run": run_id(header), **json.loads(_canonical(header))}
    body = json.dumps(content, separators=(",", ":"), allow_nan=False)[:-1].encode()
    return body + _seal(body) + b"\n"


def is_torn_header(data: bytes) -> bool:
    """True if the data is nothing, or only the beginning of a header whose writer died."""
    start = data.rstrip(b"\0")[: len(_HEADER_BEGINNING)]
    return b"\n" not in data and not _SEAL.search(data) and _HEADER_BEGINNING.startswith(start)


def _parse_header(body: bytes, path: str | Path) -> dict[str, Any]:
    try:
        header = json.loads(body + b"}")
        form, run, own = header["format"], header["run"], run_id(header)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise JournalError(f"{path}:1: the line is not the header of a zodist journal ({error})") from error
    if form != FORMAT:
        raise JournalError(f"{path}:1: the format is {form!r}, this version of zodist reads {FORMAT!r}")
    if run != own:
        raise JournalError(f"{path}:1: run {run!r} is not that of this header, {own!r}")
    return header


def _parse_round(body: bytes, path: str | Path, number: int) -> Entry:
    found = _ROUND.fullmatch(body)
    if not found:
        raise JournalError(f"{path}:{number}: the line is not a round of {FORMAT}")
    try:
        step, round_, k = int(found[1]), int(found[2]), int(found[4])
        values = np.frombuffer(binascii.a2b_base64(found[5], strict_mode=True), dtype="<f4").reshape(-1, k)
    except ValueError as error:  # binascii.Error is one
        raise JournalError(f"{path}:{number}: the values of the round cannot be read ({error})") from error
    return Entry(step, round_, float(found[3]), values.astype(np.float32, copy=False))


def _unsealed(line: bytes, path: str | Path, number: int) -> bytes:
    """The body of a line whose checksum is right."""
    body = line[:-_SEAL_BYTES]
    if not body or line[-_SEAL_BYTES:] != _seal(body):
        raise JournalError(
            f"{path}:{number}: the line is damaged, its checksum does not match: restore the file, or cut it"
            " before this line to go on from there"
        )
    return body


def _seal(body: bytes) -> bytes:
    return b',"crc":"%08x"}' % zlib.crc32(body)


def _canonical(content: Any) -> bytes:
    """The JSON text that is the same for equal content on every machine."""
    plain = json.loads(json.dumps(content, allow_nan=False))  # keys become text before they are sorted
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
