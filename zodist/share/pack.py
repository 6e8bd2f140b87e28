"""From a run folder to one file, and from that file and the base model to the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zodist.config import Config, parse, portable, validate
from zodist.errors import ModelError, ShareError
from zodist.journal import CONFIG, JOURNAL, METRICS, Contents, header_line, line_of, read_lines
from zodist.journal import parse as parse_journal
from zodist.models import DTYPES, load_model, params
from zodist.run import belong_together, check, export, fold, open_run, replay
from zodist.share.container import Base, Parcel, Promise, read, write


@dataclass(frozen=True, slots=True)
class Shared:
    """A file that was written.  total: steps that the run is to have; bytes: of the file."""

    path: Path
    steps: int
    total: int
    digest: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Applied:
    """Weights that were rebuilt from a file and have the digest that it promises."""

    out: Path
    steps: int
    digest: str


def share(folder: Path, out: Path, *, model: str | None = None) -> Shared:
    """Pack a run into one file.

    A run that is not finished is shared as far as it has come: all its complete steps.  The digest is the one that the run
    wrote after its last step; if it has none for it, the weights are rebuilt to know it.  model: where the base model is
    for that, if not where the config says.
    """
    config, contents = open_run(folder)
    check(contents, folder, None)
    begun = contents.entries[-1].step + 1 if contents.entries else 0
    lines = list(read_lines(folder / METRICS))
    digests = {line["step"]: line["digest"] for line in lines if "digest" in line}
    if begun in digests:
        steps, digest = begun, digests[begun]
    else:
        rebuilt = replay(folder, model=model)
        steps, digest = rebuilt.steps, rebuilt.digest
    head = contents.header
    kept = {key: value for key, value in head.items() if key not in ("format", "run", "crc")}
    journal = b"".join([header_line(kept), *(line_of(e) for e in contents.entries if e.step < steps)])
    sent = portable(config)
    promise = Promise(
        run=head["run"],
        steps=steps,
        digest=digest,
        base=Base(name=sent.model.name, fingerprint=head["model"]["fingerprint"]),
        evaluations=[line for line in lines if "split" in line and line["step"] <= steps],
    )
    size = write(out, Parcel(promise, sent.to_toml(), journal))
    return Shared(out, steps, config.run.steps, digest, size)


def apply(file: Path, out: Path, *, model: str | None = None) -> Applied:
    """Rebuild the weights of a shared run and write them as a Hugging Face folder, if they have the promised digest.

    model: where the base model is, if not where the file says.  Raises ShareError when the file is damaged, the base model
    is missing or another one, or the weights come out different; nothing is written then.
    """
    parcel = read(file)
    promise = parcel.promise
    config, contents = _run_of(parcel, file)
    name, said = model or config.model.name, contents.header["model"]
    try:
        loaded, tokenizer = load_model(name, DTYPES[said["dtype"]], said["attention"])
    except ModelError as error:
        raise ShareError(
            f"{file} needs the base model {promise.base.name!r} with fingerprint {promise.base.fingerprint}: {error}; say "
            "where it is with --model"
        ) from error
    found = params.fingerprint(loaded)
    if found != promise.base.fingerprint:
        raise ShareError(
            f"{file} needs the base model {promise.base.name!r} with fingerprint {promise.base.fingerprint}, and "
            f"{name!r} has {found}; say with --model where that base model is"
        )
    replica = fold(config, contents, loaded, file)
    digest = f"{params.digest(replica.params):016x}"
    if (replica.step, digest) != (promise.steps, promise.digest):
        raise ShareError(
            f"{file} promises digest {promise.digest} after {promise.steps} steps, and its journal gives {digest} after "
            f"{replica.step}; get it again from where it was made"
        )
    export(out, loaded, tokenizer, config, contents, replica, promise.evaluations)
    return Applied(out, replica.step, digest)


def _run_of(parcel: Parcel, file: Path) -> tuple[Config, Contents]:
    """Configuration and journal of a parcel, which belong together and to its promise."""
    tables, places = parse(parcel.config, Path(f"{file}/{CONFIG}"))
    config = validate(tables, Path(CONFIG), places)
    contents = parse_journal(parcel.journal, f"{file}/{JOURNAL}")
    belong_together(config, contents, file)
    check(contents, file, None)
    head, promise = contents.header, parcel.promise
    if (head["run"], head["model"]["fingerprint"]) != (promise.run, promise.base.fingerprint):
        raise ShareError(
            f"{file} has the journal of another run than it promises; get it again from where it was made"
        )
    return config, contents
