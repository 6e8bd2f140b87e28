"""The bytes of a shared run: written the same for the same run, and read with every size checked first."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zodist.errors import ShareError
from zodist.journal import CONFIG, JOURNAL

FORMAT = "zodist-share/1"
PROMISE = "share.json"
# Bytes that a member may unpack to: a journal of a million steps of one probe has 100 MB.
LIMITS = {PROMISE: 1 << 20, CONFIG: 1 << 20, JOURNAL: 1 << 30}

_Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that the format knows


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Base(_Strict):
    """The base model: the name that the run had for it, and params.fingerprint of its weights."""

    name: str
    fingerprint: _Hex


class Promise(_Strict):
    """What the weights are after so many steps; evaluations: lines of metrics.jsonl."""

    format: Literal["zodist-share/1"] = FORMAT
    run: _Hex
    steps: Annotated[int, Field(ge=0)]
    digest: _Hex
    base: Base
    evaluations: list[dict[str, Any]]


@dataclass(frozen=True, eq=False, slots=True)
class Parcel:
    """A shared run.  config: TOML text; journal: the bytes of journal.jsonl."""

    promise: Promise
    config: str
    journal: bytes


def write(path: Path, parcel: Parcel) -> int:
    """Put the file in place at once; returns its size in bytes.  Raises ShareError if it cannot be written."""
    promise = json.dumps(parcel.promise.model_dump(), sort_keys=True, indent=1).encode()
    members = {PROMISE: promise, CONFIG: parcel.config.encode(), JOURNAL: parcel.journal}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED, 9)
    fresh = path.with_name(path.name + ".unfinished")
    try:
        fresh.write_bytes(packed.getvalue())
        os.replace(fresh, path)
    except OSError as error:
        raise ShareError(f"cannot write {path}: {error.strerror or error}") from error
    return len(packed.getvalue())


def read(path: Path) -> Parcel:
    """What a file holds.  Raises ShareError with the reason if it is damaged, or was never a shared run."""
    most = sum(LIMITS.values())
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise _damaged(path, f"it has {size} bytes, more than any shared run")
            whole = file.read(most)
    except OSError as error:
        raise ShareError(f"cannot read {path}: {error.strerror or error}") from error
    try:  # in memory: no error from here on is the disk's
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            found = {name: _member(archive, name, path) for name in _names(archive, path)}
    except ShareError:
        raise
    except Exception as error:  # whatever zipfile stumbles over: its errors have no common class
        raise _damaged(path, str(error) or "it ends too early") from error
    try:
        promise = Promise.model_validate_json(found[PROMISE])
        config = found[CONFIG].decode()
    except (ValidationError, UnicodeDecodeError) as error:
        what = error.errors()[0] if isinstance(error, ValidationError) else None
        where = (
            f"{PROMISE} {'.'.join(map(str, what['loc']))}: {what['msg']}" if what else f"{CONFIG} is not text"
        )
        raise _damaged(path, where) from error
    return Parcel(promise, config, found[JOURNAL])


def _names(archive: zipfile.ZipFile, path: Path) -> list[str]:
    names = [info.filename for info in archive.infolist()]
    if names != list(LIMITS):
        listed = ", ".join(LIMITS)
        raise _damaged(path, f"it holds {len(names)} members where a shared run has {listed}")
    return names


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """The bytes of a member, whose checksum is right and whose size is what the archive declares."""
    info = archive.getinfo(name)
    if info.file_size > LIMITS[name] or info.flag_bits & 1 or info.compress_type != zipfile.ZIP_DEFLATED:
        raise _damaged(path, f"its member {name} would unpack to {info.file_size} bytes in an unknown way")
    with archive.open(info) as member:
        data = member.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise _damaged(path, f"its member {name} has another size than it says")
    return data


def _damaged(path: Path, why: str) -> ShareError:
    return ShareError(
        f"{path} is damaged or no file of `zodist share` ({why}); get it again from where it was made"
    )
