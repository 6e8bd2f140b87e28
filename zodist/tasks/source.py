"""Rows of data from the Hugging Face hub, from local files, or from a package that ships labelled data.

Everything is read where it lies: one JSON object a line (.jsonl), .csv and .tsv with a header line, .parquet,
and plain text with one document a line (.txt, field "text"). Every row knows its place, so that a message can
name it.
"""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zodist.config import nearest
from zodist.errors import TaskError
from zodist.tasks import lexicon
from zodist.tasks.description import SPLITS, Description, Source

PACKAGES = {"vaderSentiment": lexicon.read}  # package -> (folder, split) -> rows with their lines


@dataclass(frozen=True)
class Rows:
    """One split of the data.

    records: the rows, each a mapping from field to value; may be read from disk as they are asked for.
    lines: the line each row ends on in `origin`; None where rows have no lines (hub, parquet).
    """

    origin: str
    fields: tuple[str, ...]
    records: Sequence[Mapping[str, Any]]
    lines: Sequence[int] | None = None

    def place(self, index: int) -> str:
        """A name for one row: file and line, or origin and row counted from 0."""
        return f"{self.origin} row {index}" if self.lines is None else f"{self.origin}:{self.lines[index]}"


@dataclass(frozen=True)
class Drawn:
    """Some rows of a split, in the order of `indices`."""

    rows: Rows
    indices: tuple[int, ...]


def read(description: Description, files: Mapping[str, str | Path], split: str, needed: int) -> Rows:
    """One split, "train" or "validation"; files (split -> path), if given, replace the task's source.

    needed: how many rows are wanted; a stream is read no further, or up to source.first.
    """
    for name in files:
        if name not in SPLITS:
            raise TaskError(f"task.files names the split {name!r}{nearest(name, SPLITS)}")
    source = description.source
    own = {name: description.folder / path for name, path in source.files.model_dump().items() if path}
    places = files or own
    if source.hub and not files:
        rows = _hub(source, getattr(description.splits, split), max(needed, source.first))
    elif source.package and not files:
        rows = _package(source.package, split)
    elif split in places:
        rows = _file(Path(places[split]), split)
    elif places:
        raise TaskError(f'task {description.name!r} has no {split} file; add {split} = "..." to task.files')
    else:
        raise TaskError(
            f'task {description.name!r} has no data; set task.files = {{train = "...", validation = "..."}}'
        )
    if not len(rows.records):
        raise TaskError(f"{rows.origin} (the {split} split) holds no rows; give a file or split with data")
    return rows


def _hub(source: Source, split: str, first: int) -> Rows:
    import datasets  # slow to import, and of no use to other sources

    name, subset, streaming = source.hub, source.subset, source.streaming
    title = f"{name}/{subset}" if subset else name
    try:
        data: Any = datasets.load_dataset(
            name, subset, split=split, revision=source.revision, streaming=streaming
        )
        if streaming:
            records = list(itertools.islice(data, first))
            return Rows(f"{title} {split}", tuple(records[0]) if records else (), records)
    except Exception as error:  # the library's own errors have no common class
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise TaskError(
            f"the data set {title} (split {split}) cannot be loaded from the Hugging Face hub ({reason[0]}); "
            f"check its name and the network, or set task.files to local files"
        ) from error
    return Rows(f"{title} {split}", tuple(data.column_names or ()), data)


def _package(package: str, split: str) -> Rows:
    if package not in PACKAGES:
        raise TaskError(f"no reader for data of the package {package!r}{nearest(package, PACKAGES)}")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise TaskError(
            f"the data are in the package {package}, which is not installed; run: pip install {package}"
        )
    records, lines = PACKAGES[package](Path(spec.origin).parent, split)
    return Rows(f"{package} {lexicon.FILE}", tuple(records[0]) if records else (), records, lines)


def _file(path: Path, split: str) -> Rows:
    kinds = {".jsonl": _jsonl, ".csv": _csv, ".tsv": _csv, ".txt": _text}
    suffix = path.suffix.lower()
    if suffix not in kinds and suffix != ".parquet":
        raise TaskError(
            f"{path} (the {split} file) has the ending {suffix!r}; it must be one of "
            f"{', '.join(kinds)}, .parquet"
        )
    try:
        if suffix == ".parquet":
            return _parquet(path)
        pairs = list(kinds[suffix](path))
    except FileNotFoundError:
        raise TaskError(f"{path} (the {split} file) does not exist; correct the path in task.files") from None
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} (the {split} file) is not UTF-8 at byte {error.start}; convert it") from None
    except OSError as error:
        raise TaskError(f"{path} (the {split} file) cannot be read: {error.strerror or error}") from None
    fields = tuple(dict.fromkeys(field for _, record in pairs for field in record))
    return Rows(str(path), fields, [record for _, record in pairs], [line for line, _ in pairs])


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise TaskError(
                    f"{path}:{number}: the line is not JSON ({error}); a .jsonl file holds one object a line"
                ) from None
            if not isinstance(record, dict):
                raise TaskError(
                    f"{path}:{number}: the line is a JSON {type(record).__name__}; it must be an object"
                )
            yield number, record


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        # GLUE's .tsv files hold bare quotation marks, so quotes mean nothing there.
        tabs = path.suffix.lower() == ".tsv"
        rows = (
            csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if tabs
            else csv.reader(file, strict=True)
        )
        try:
            header = next(rows, [])
            for values in rows:
                if not values:
                    continue
                if len(values) != len(header):
                    raise TaskError(
                        f"{path}:{rows.line_num}: the row has {len(values)} values and the header "
                        f"{len(header)}; quote a value that holds a separator"
                    )
                yield rows.line_num, dict(zip(header, values, strict=True))
        except csv.Error as error:
            raise TaskError(f"{path}:{rows.line_num}: the row is not CSV ({error})") from None


def _text(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, {"text": line.rstrip("\r\n")}


def _parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    # In memory, because the library raises OSError for damage too; a folder of parts it has to find itself.
    source = path if path.is_dir() else pyarrow.BufferReader(path.read_bytes())
    try:
        table = pyarrow.parquet.read_table(source)
        records = table.to_pylist()
    except Exception as error:  # OSError, ValueError, NotImplementedError, UnicodeDecodeError
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
        raise TaskError(f"{path} is not a parquet file, or is damaged ({why}); write it anew") from None
    return Rows(str(path), tuple(table.column_names), records)
