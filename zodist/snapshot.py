"""Snapshots of weights and method state: safetensors files that are complete or absent, checked before use.

snapshot-<step, 8 digits>.safetensors holds the tensors after `step` steps.  Its metadata are `step`, `rounds`
(those of the last step: together the position in the journal), `run` (the journal's run id), `format` and
`crc`: the CRC-32 (zlib) of the whole file, with the eight digits of `crc` itself read as zeros.  So a flipped
bit anywhere is found: in the tensors, their names, shapes, or the metadata.

The file is written here and not by the safetensors package, which would copy every tensor to bytes first:
data go from each tensor to the file, one tensor at a time.  Largest elements come first, so that all are
aligned, then names in order: equal tensors give equal files.

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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from zodist.errors import SnapshotError
from zodist.journal import make_folder, sync_folder

FORMAT = "zodist-snapshot/1"
_log = logging.getLogger(__name__)
_NAME = re.compile(r"snapshot-([0-9]{8,})\.safetensors")
_UNFINISHED = re.compile(r"snapshot-[0-9]{8,}\.safetensors\.unfinished")
_CRC = re.compile(rb'("crc":")([0-9a-f]{8})(")')
_ZEROS = b"00000000"
_CHUNK = 1 << 22
_MAX_HEADER = 100_000_000  # the limit of the safetensors package
_DTYPES = {
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


class Tensors(Mapping[str, torch.Tensor]):
    """The tensors of a snapshot by name, each read from the file when it is asked for, on the CPU."""

    def __init__(self, path: Path) -> None:
        """Open the file; it may be removed while this object lives."""
        self._file = safe_open(path, framework="pt", device="cpu")
        self._names = tuple(self._file.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        """Read one tensor into memory of the caller's own; nothing is kept, so asking twice reads twice."""
        if name not in self._names:
            raise KeyError(name)
        return self._file.get_tensor(name).clone()  # the package returns a view of the mapped file

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._names)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot whose checksum was right: step, tensors, path, and why newer files were passed over."""

    step: int
    tensors: Mapping[str, torch.Tensor]
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
    folder = Path(folder)
    path = folder / f"snapshot-{step:08d}.safetensors"
    unfinished = path.with_name(path.name + ".unfinished")
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header = _header(names, tensors, step, run, rounds)
    try:
        make_folder(folder)
        _remove_unfinished(folder)
        try:
            _write(unfinished, header, names, tensors)
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        sync_folder(folder)
        older = [found for found in listed(folder) if found[0] <= step]
        for _, surplus in older[keep:]:
            surplus.unlink(missing_ok=True)
    except OSError as error:
        raise SnapshotError(f"cannot write the snapshot {path}: {error.strerror or error}") from error
    return path


def newest(folder: str | Path, run: str, at_most: int, rounds: int | None = None) -> Snapshot | None:
    """The newest good snapshot of a run that is not ahead of its journal, or None.

    run: the journal's run id; at_most: the number of steps that the journal can vouch for; rounds: how many rounds it
    holds of the last of them, which may be fewer than the step had.
    Files that are damaged, of another run or unreadable are passed over, with a warning in the log.
    """
    folder = Path(folder)
    skipped: list[str] = []
    for step, path in listed(folder) if folder.is_dir() else []:
        if step > at_most:
            continue
        try:
            why = _fault(path, step, run, rounds if step == at_most else None)
            if not why:
                return Snapshot(step, Tensors(path), path, tuple(skipped))
        except OSError as error:
            why = error.strerror or str(error)
        skipped.append(f"{path}: {why}")
        _log.warning("snapshot passed over: %s: %s", path, why)
    return None


def _header(names: list[str], tensors: Mapping[str, torch.Tensor], step: int, run: str, rounds: int) -> bytes:
    """The first bytes of the file: length, then JSON padded to a multiple of 8, its checksum zeros."""
    position = {"run": run, "step": str(step), "rounds": str(rounds)}
    content: dict[str, object] = {"__metadata__": {"crc": _ZEROS.decode(), "format": FORMAT, **position}}
    offset = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise SnapshotError(f"tensor {name!r} is {tensor.dtype}, which a snapshot cannot hold")
        size = math.prod(tensor.shape) * tensor.element_size()
        content[name] = {
            "dtype": _DTYPES[tensor.dtype],
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


def listed(folder: Path) -> list[tuple[int, Path]]:
    """Steps and paths of all snapshots in a folder, newest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def _remove_unfinished(folder: Path) -> None:
    """Remove what a writer left that died; the journal's lock sees to it that there is one writer."""
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)
