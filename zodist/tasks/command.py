"""`zodist tasks`: which tasks there are, and what a model is given of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from zodist.tasks.task import Task

tasks_app = typer.Typer(help="List the tasks, and show examples of one.", invoke_without_command=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]
OPEN, CLOSE = (
    "\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}",
    "\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}",
)


@tasks_app.callback()
def tasks(context: typer.Context, as_json: Json = False) -> None:
    """List the built-in tasks: kind, metric, where the data come from."""
    if context.invoked_subcommand:
        return
    from zodist.tasks.task_file import built_in, describe

    found = [describe(name) for name in built_in()]
    rows = [
        {
            "name": d.name,
            "kind": d.kind,
            "metric": d.metric,
            "source": " ".join(filter(None, (d.source.hub, d.source.subset, d.source.package)))
            or "task.files",
        }
        for d in found
    ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "kind", "metric", "source")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


@tasks_app.command()
def show(
    name: Annotated[str, typer.Argument(help="A built-in task, or the path of a task's TOML file.")],
    model: Annotated[str, typer.Option(help="Whose tokenizer: a folder or a name.")] = "smollm2-135m",
    train: Annotated[Path | None, typer.Option(help="A data file, in place of the task's source.")] = None,
    examples: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Length of the longest row.")] = None,
    as_json: Json = False,
) -> None:
    """Print examples as a model is trained on them; the tokens that carry the loss are marked."""
    from zodist.models import load_tokenizer
    from zodist.tasks.loading import load_task

    tokenizer = load_tokenizer(model)
    task = load_task(
        name,
        tokenizer,
        files={"train": train} if train else {},
        train=examples,
        validation=0,
        test=0,
        seed=seed,
        max_tokens=max_tokens,
    )
    found = [_example(task, tokenizer, example) for example in task.train]
    if as_json:
        typer.echo(
            json.dumps(
                {"task": task.name, "metric": task.metric, "warnings": task.warnings, "examples": found}
            )
        )
        return
    _print(task, found)


def _example(task: Task, tokenizer: Any, example: Any) -> dict[str, Any]:
    """An example in plain values: its place, text and tokens, each with what it adds to the text and whether it counts."""
    tokens, ranges = task.shown(example)
    edges = sorted({0, len(tokens), *(edge for pair in ranges for edge in pair)})
    pieces = []
    for start, stop in zip(edges, edges[1:], strict=False):
        counts = any(first <= start < last for first, last in ranges)
        pieces.append(
            {"text": tokenizer.decode(list(tokens[start:stop])), "tokens": stop - start, "loss": counts}
        )
    return {"place": example.place, "tokens": len(tokens), "label": example.label, "pieces": pieces}


def _print(task: Task, examples: list[dict[str, Any]]) -> None:
    """On a terminal what carries the loss stands in colour, elsewhere between angle quotation marks."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for warning in task.warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    if task.label_words:
        console.print(f"options: {', '.join(map(repr, task.label_words))}", markup=False, soft_wrap=True)
    for found in examples:
        counted = sum(piece["tokens"] for piece in found["pieces"] if piece["loss"])
        title = f"{found['place']}: {found['tokens']} tokens, {counted} of them carry the loss"
        console.print(Text(title, style="dim"), soft_wrap=True)
        line = Text()
        for piece in found["pieces"]:
            marked = piece["loss"] and not console.is_terminal
            text = f"{OPEN}{piece['text']}{CLOSE}" if marked else piece["text"]
            line.append(text, style="bold black on green" if piece["loss"] else "")
        console.print(line, soft_wrap=True)
        console.print()
