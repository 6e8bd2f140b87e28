"""`zodist replay`, `zodist share` and `zodist apply`: the model of a run, here and on another machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None, typer.Option(help="Where the base model is, if not where the run's config says.")
]
Average = Annotated[
    float | None, typer.Option(help="The weights' running average over the steps, with this decay, as 0.99.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]


def replay(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "--push-folder", help="Hugging Face folder to write: weights, tokenizer, model card."
        ),
    ] = None,
    model: Model = None,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps (default: all).")] = None,
    best: Annotated[bool, typer.Option("--best", help="Stop where the validation loss was lowest.")] = False,
    average: Average = None,
    as_json: Json = False,
) -> None:
    """Rebuild the fine-tuned weights from the base model and the journal, bit for bit, without a forward pass.

    The folder is ready for the Hugging Face hub: its README.md says what was trained how, and what came of it.
    """
    from zodist.run import best_step
    from zodist.run import replay as rebuild

    result = rebuild(run, out, model=model, steps=best_step(run) if best else steps, average=average)
    if as_json:
        figures = {"steps": result.steps, "digest": result.digest, "verified": result.verified}
        typer.echo(json.dumps({**figures, "out": str(out) if out else None}))
        return
    same = {
        True: "equal to the snapshot's",
        False: "NOT the snapshot's",
        None: "no snapshot of this step to compare",
    }
    weights = (
        same[result.verified]
        if average is None
        else f"of the average; the last weights: {same[result.verified]}"
    )
    typer.echo(f"{result.steps} steps replayed; digest {result.digest} ({weights})")
    if out:
        typer.echo(f"written to {out}; load it with transformers' from_pretrained")


def share(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="The file (default: NAME.zodist, NAME of the run folder).")
    ] = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Pack a run into one file of kilobytes: journal, configuration, and digests of the base and of the trained weights.

    Whoever has the base model makes the trained one of it with [bold]zodist apply[/bold].  The file names no folder, host or
    key of this machine.  A run that is not finished is shared as far as it has come.
    """
    from zodist.report import amount
    from zodist.share.pack import share as pack

    found = pack(run, out or Path(f"{run.resolve().name}.zodist"), model=model)
    if as_json:
        figures = {"steps": found.steps, "of": found.total, "digest": found.digest, "bytes": found.bytes}
        typer.echo(json.dumps({"file": str(found.path), **figures}))
        return
    part = "" if found.steps == found.total else f" of {found.total}, the run is not finished"
    typer.echo(f"{found.path}: {amount(found.bytes)}, {found.steps} steps{part}; digest {found.digest}")
    typer.echo(f"next     zodist apply {found.path} --out FOLDER     (wherever the base model is)")


def apply(
    file: Annotated[Path, typer.Argument(help="File of `zodist share`.")],
    out: Annotated[Path, typer.Option(help="Hugging Face folder to write (weights, tokenizer, model card).")],
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Rebuild a shared run's weights from the base model, and verify their digest: the same bits, without a forward pass."""
    from zodist.share.pack import apply as unpack

    found = unpack(file, out, model=model)
    if as_json:
        typer.echo(
            json.dumps(
                {"out": str(found.out), "steps": found.steps, "digest": found.digest, "verified": True}
            )
        )
        return
    typer.echo(f"{found.steps} steps applied; digest {found.digest} (as the file promises)")
    typer.echo(f"written to {found.out}; load it with transformers' from_pretrained")
