"""Snapshots of weights and method state: safetensors files that are complete or absent, checked before use.

snapshot-<step, 8 digits>.safetensors holds the tensors after `step` steps.  Its metadata are `step`, `rounds`
(those of the last step: together the position in the journal), `run` (the journal's run id), `format` and
`crc`: the CRC-32 (zlib) of the whole file, with the eight digits of `crc` itself read as zeros.  So a flipped
bit anywhere is found: in the tensors, their names, shapes, or the metadata.

The file is written here and not by the safetensors package, which would copy every tensor to bytes first:
data go from each tensor to the file, one tensor at a time.  Largest elements come first, so that all are
aligned, then names in order: equal tensors give equal files.

Of a sharded model there is a file for each part, snapshot-<step>.<number>-of-<parts>.safetensors, with the same
tensors; `part` and `origins` in its metadata say which ranges of those that are cut.  Only all parts are a snapshot.

Order of writing: temporary file, fsync, rename over the final name, fsync of the folder; only then are older
snapshots removed.  A snapshot that cannot be written leaves the older ones as they were.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from zodist.errors import SnapshotError
from zodist.journal.file import make_folder, sync_folder

FORMAT = "zodist-snapshot/1"
_log = logging.getLogger(__name__)
_NAME = re.compile(r"snapshot-([0-9]{8,})(?:\.([0-9]+)-of-([0-9]+))?\.safetensors")
_CRC = re.compile(rb'("crc":")([0-9a-f]{8})(")')
_ZEROS = b"00000000"
_CHUNK = 1 << 22
_MAX_HEADER = 100_000_000  # the limit of the safetensors package
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
}


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a sharded model a file holds.

    origins: of every tensor that is cut, where in the whole, seen flat, its first number is.
    """

    number: int
    parts: int
    origins: Mapping[str, int]


class Tensors(Mapping[str, torch.Tensor]):
    """The tensors of a snapshot by name, each read from its files when it is asked for, on the CPU."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the files, in the order of their parts; they may be removed while this object lives."""
        self._files: list[Any] = [safe_open(path, framework="pt", device="cpu") for path in paths]
        self._origins = [json.loads((file.metadata() or {}).get("origins", "{}")) for file in self._files]
        self._names = tuple(self._files[0].keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        """Read one tensor into memory of the caller's own; nothing is kept, so asking twice reads twice."""
        if name not in self._names:
            raise KeyError(name)
        cut = len(self._files) > 1 and name in self._origins[0]
        parts = [file.get_tensor(name) for file in (self._files if cut else self._files[:1])]
        return torch.cat(parts) if cut else parts[0].clone()  # the package returns a view of the mapped file

    def range(self, name: str, first: int, stop: int) -> torch.Tensor:
        """Numbers first .. stop - 1 of a tensor seen flat; no others are read."""
        found = []
        for file, origins in zip(self._files, self._origins, strict=True):
            part, origin = file.get_slice(name), origins.get(name, 0)
            size = math.prod(part.get_shape())
            a, b = max(first - origin, 0), min(stop - origin, size)
            if a < b or not found:
                found.append(part[a : max(a, b)] if len(part.get_shape()) == 1 else part[:].reshape(-1)[a:b])
            if name not in origins:
                break
        return torch.cat(found)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._names)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot whose checksums were right.  path: of its first part; skipped: why newer ones were passed over."""

    step: int
    tensors: Tensors
    path: Path
    skipped: tuple[str, ...]


def save(
    folder: str | Path, step: int, tensors: Mapping[str, torch.Tensor], run: str, keep: int, rounds: int = 0
) -> Path:
    """Write a snapshot, remove all but the newest `keep` up to this step, and return its path.

    tensors: any device and layout; those not on the CPU are copied there one at a time.  rounds: those of the last step.
    Raises SnapshotError with the reason if it cannot be written; older snapshots are then untouched.
    """
    if keep < 1 or step < 0:
        raise ValueError(f"keep = {keep} must be >= 1 and step = {step} must be >= 0")
    path = write(folder, step, tensors, run, rounds)
    prune(folder, step, keep)
    return path


def write(
    folder: str | Path,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    run: str,
    rounds: int = 0,
    part: Part | None = None,
) -> Path:
    """Write a snapshot, or a part of one, and return its path; see ``save``."""
    folder = Path(folder)
    which = "" if part is None else f".{part.number}-of-{part.parts}"
    path = folder / f"snapshot-{step:08d}{which}.safetensors"
    unfinished = path.with_name(path.name + ".unfinished")
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header = _header(names, tensors, step, run, rounds, part)
    try:
        make_folder(folder)
        try:
            _write(unfinished, header, names, tensors)
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        sync_folder(folder)
    except OSError as error:
        raise SnapshotError(f"cannot write the snapshot {path}: {error.strerror or error}") from error
    return path


def prune(folder: str | Path, step: int, keep: int) -> None:
    """Remove all snapshots up to a step but the newest `keep`, and what writers left that died.

    Nobody may be writing: the journal's lock sees to it that a run has one writer, and parts are written together.
    """
    try:
        stay = [found for found in listed(Path(folder)) if found[0] <= step][:keep]
        kept = {path for _, paths in stay for path in paths}
        for path in Path(folder).iterdir():
            match = _NAME.fullmatch(path.name.removesuffix(".unfinished"))
            if match and path not in kept and (int(match[1]) <= step or path.suffix == ".unfinished"):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise SnapshotError(f"cannot remove old snapshots of {folder}: {error.strerror or error}") from error


def newest(folder: str | Path, run: str, at_most: int, rounds: int | None = None) -> Snapshot | None:
    """The newest good snapshot of a run that is not ahead of its journal, or None.

    run: the journal's run id; at_most: the number of steps that the journal can vouch for; rounds: how many rounds it
    holds of the last of them, which may be fewer than the step had.
    Files that are damaged, of another run or unreadable are passed over, with a warning in the log.
    """
    folder = Path(folder)
    skipped: list[str] = []
    for step, paths in listed(folder) if folder.is_dir() else []:
        if step > at_most:
            continue
        for path in paths:
            try:
                why = _fault(path, step, run, rounds if step == at_most else None)
            except OSError as error:
                why = error.strerror or str(error)
            if why:
                skipped.append(f"{path}: {why}")
                _log.warning("snapshot passed over: %s: %s", path, why)
                break
        else:
            return Snapshot(step, Tensors(paths), paths[0], tuple(skipped))
    return None


def _header(
    names: list[str],
    tensors: Mapping[str, torch.Tensor],
    step: int,
    run: str,
    rounds: int,
    part: Part | None,
) -> bytes:
    """The first bytes of the file: length, then JSON padded to a multiple of 8, its checksum zeros."""
    position = {"run": run, "step": str(step), "rounds": str(rounds)}
    if part is not None:
        position |= {"part": f"{part.number}/{part.parts}", "origins": json.dumps(dict(part.origins))}
    content: dict[str, object] = {"__metadata__": {"crc": _ZEROS.decode(), "format": FORMAT, **position}}
    offset = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in DTYPES:
            raise SnapshotError(f"tensor {name!r} is {tensor.dtype}, which a snapshot cannot hold")
        size = math.prod(tensor.shape) * tensor.element_size()
        content[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write(path: Path, header: bytes, names: list[str], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write and fsync the file; the checksum is put in place when all data have passed."""
    field = _CRC.search(header)
    assert field  # the first match: _header puts it before the names
    with path.open("wb") as file:
        file.write(header)
        crc = zlib.crc32(header)
        for name in names:
            tensor = tensors[name].detach().to("cpu").contiguous()
            view = tensor.reshape(-1).view(torch.uint8).numpy().data
            for start in range(0, len(view), _CHUNK):
                chunk = view[start : start + _CHUNK]
                crc = zlib.crc32(chunk, crc)
                file.write(chunk)
        file.seek(field.start(2))
        file.write(b"%08x" % crc)
        file.flush()
        os.fsync(file.fileno())


def _fault(path: Path, step: int, run: str, rounds: int | None) -> str:
    """Why a file is not a good snapshot of this run and step, ``rounds`` of it at most; empty if it is one."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = os.fstat(file.fileno()).st_size
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            return "the file is cut short or is not a snapshot"
        text = file.read(length)
        field = _CRC.search(text)
        if not field:
            return "the file has no checksum, so it is damaged or not a snapshot of zodist"
        zeroed = text[: field.start(2)] + _ZEROS + text[field.end(2) :]
        crc = zlib.crc32(zeroed, zlib.crc32(length.to_bytes(8, "little")))
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    if field[2] != b"%08x" % crc:
        return "the checksum does not match, so the file is damaged"
    metadata = json.loads(text)["__metadata__"]
    for key, expected in {"format": FORMAT, "run": run, "step": str(step)}.items():
        if metadata[key] != expected:
            return f"it has {key} {metadata[key]}, this needs {key} {expected}"
    if rounds is not None and int(metadata.get("rounds", "0")) > rounds:
        return f"its last step had {metadata['rounds']} rounds, the journal holds {rounds} of them"
    return ""


def listed(folder: Path) -> list[tuple[int, list[Path]]]:
    """Steps and paths of all snapshots in a folder of which no part is missing, newest first; paths in part order."""
    found: dict[tuple[int, int], dict[int, Path]] = {}
    for path in folder.iterdir():
        if match := _NAME.fullmatch(path.name):
            found.setdefault((int(match[1]), int(match[3] or 0)), {})[int(match[2] or 0)] = path
    whole = {key: own for key, own in found.items() if len(own) == max(1, key[1])}
    return [(step, [own[n] for n in sorted(own)]) for (step, _), own in sorted(whole.items(), reverse=True)]
