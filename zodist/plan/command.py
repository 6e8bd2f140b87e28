"""`zodist plan`: what a run will cost, before it is started."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from zodist.errors import ConfigError

FLIGHTS = 2  # of a round over gloo: a receiver says that it is ready before it is sent to


def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Folder or config.json, hub name, smollm2-135m, or a built-in shape such as opt-30b."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers.")] = 1,
    probes: Annotated[int, typer.Option(min=1, help="Probes in a step.")] = 1,
    lanes: Annotated[int, typer.Option(min=1, help="Data lanes of a probe.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Examples of a batch.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of an example.")] = 32,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    method: Annotated[
        str, typer.Option(help="Its forward passes and rounds count; `zodist methods` lists them.")
    ] = "mezo",
    noise: Annotated[str, typer.Option(help="gaussian or rademacher.")] = "rademacher",
    coupling: Annotated[str, typer.Option(help="walsh, independent or low-rank.")] = "walsh",
    rank: Annotated[int, typer.Option(min=1, help="Of low-rank directions.")] = 4,
    beside: Annotated[int, typer.Option(min=1, help="Workers that share one machine.")] = 1,
    mbit: Annotated[float, typer.Option(min=0, help="Rate of a worker's link; 0: as calibrated.")] = 0.0,
    delay_ms: Annotated[float, typer.Option(min=0, help="One way, on top of the calibrated latency.")] = 0.0,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes, for the layout of a large model.")] = 1,
    gpus: Annotated[
        int, typer.Option(min=0, help="Devices of a node; with --gpu-memory: lay the model out.")
    ] = 0,
    gpu_memory: Annotated[float, typer.Option(min=0, help="Of a device, GB.")] = 0.0,
    noise_ratio: Annotated[
        float, typer.Option(min=0, help="Variance of a slope between batches over its square.")
    ] = 1.0,
    step_ratio: Annotated[
        float,
        typer.Option(min=0, help="Steps that zodist needs for one first-order step; 0: MeZO's scripts, 32."),
    ] = 0.0,
    calibrate: Annotated[bool, typer.Option(help="Measure this machine and write --calibration.")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="File of rates; default: calibration.json, if there is one.")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Of the worker that is measured; 0: all cores.")] = 0,
    simulate: Annotated[bool, typer.Option(help="Simulate 10 to 100,000 workers, four populations.")] = False,
    plot: Annotated[Path | None, typer.Option(help="With --simulate: the picture, .png or .svg.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Folder of zodist scale: predictions beside its cells.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")] = False,
) -> None:
    """Predict a step's time, efficiency and replay share; choose probes, lanes and layout; say who else would be faster.

    First [bold]zodist plan --calibrate[/bold] on your machine (under torchrun it measures the network between the workers as
    well), then [bold]zodist plan MODEL --workers 8 --probes 64[/bold].  Without a calibration the rates are constants of an
    H100-class accelerator, and said to be.
    """
    from zodist.plan.calibration import REFERENCE, read_calibration, write_calibration

    path = calibration or Path("calibration.json")
    if calibrate:
        found = _calibrated(threads)
        if found is None:
            return
        write_calibration(path, found)
    elif calibration is not None or path.exists():
        found = read_calibration(path)
    else:
        found = REFERENCE
    answers: dict[str, Any] = {"calibration": found.model_dump()}
    tables: list[Any] = []
    notes = [f"rates: {found.machine}" + (f", {found.measured}" if found.measured else "")]
    if calibrate:
        notes.append(f"written: {path}")
    if against is not None:
        from zodist.plan.against import compare, measured_cells, summary
        from zodist.plan.screen import compared_table

        compared = compare(measured_cells(against), found)
        answers["against"] = [{**asdict(item), "error": item.error} for item in compared]
        tables.append(compared_table(compared))
        notes.append(summary(compared))
    if model is not None:
        job = _job(locals(), method)
        link = _link(found.link, mbit, delay_ms)
        _predict(model, job, found.model_copy(update={"link": link}), locals(), answers, tables, notes)
    elif not calibrate and against is None:
        raise ConfigError("nothing to plan: name a MODEL, or give --calibrate or --against FOLDER")
    if as_json:
        typer.echo(json.dumps({**answers, "notes": notes}))
        return
    from rich.console import Console

    for table in tables:
        Console().print(table)
    for note in notes:
        typer.echo(note)


def _predict(
    model: str,
    job: Any,
    machine: Any,
    asked: dict[str, Any],
    answers: dict[str, Any],
    tables: list[Any],
    notes: list[str],
) -> None:
    """Cost, split, other ways; layout and scaling where they are asked for."""
    from zodist.plan import advice, screen, wall
    from zodist.plan.cost import cost, efficiency
    from zodist.plan.memory import Machines, fit
    from zodist.plan.shapes import read_shape

    shape = read_shape(model)
    room = asked["gpu_memory"] * 1e9 or None
    if asked["gpus"] and room:
        found = fit(shape, job, machine, Machines(asked["nodes"], asked["gpus"], room))
        answers["layout"] = {**asdict(found), "step_s": found.step_s}
        tables.append(screen.fit_table(found))
        job = found.job
        notes.append(
            "assumed: 450 GB/s between the devices of a node, 25 GB/s from its memory, fetched ahead"
        )
    spent, share = cost(shape, job, machine), efficiency(shape, job, machine)
    answers["shape"] = asdict(shape)
    answers["step"] = {
        **asdict(spent),
        "step_s": spent.step_s,
        "replay_share": spent.replay_share,
        "efficiency": share,
    }
    tables.append(screen.cost_table(job, spent, share))
    ratio = asked["step_ratio"] or advice.STEP_RATIO
    if job.probes * job.lanes > 1:
        shared = advice.splits(shape, job, machine, asked["noise_ratio"])
        answers["splits"] = [
            {"probes": s.job.probes, "lanes": s.job.lanes, "step_s": s.cost.step_s} for s in shared
        ]
        tables.append(screen.split_table(shared))
        notes.append(
            f"assumed: a slope's variance between batches is {asked['noise_ratio']:g} times its square (--noise-ratio)"
        )
    verdicts = advice.verdicts(shape, job, machine, step_ratio=ratio, room=room)
    answers["others"] = [{**asdict(v), "name": v.way.name} for v in verdicts]
    tables.append(screen.verdict_table(verdicts, spent.step_s))
    notes += [
        f"assumed: {ratio:.3g} steps of zodist for one of theirs (--step-ratio; MeZO's scripts: 20,000 for 625)",
        "assumed of the others: backward = 2 forwards, AdamW, LoRA of rank 8 on queries and values, nothing overlaps",
        advice.sentence(verdicts, ratio),
    ]
    if asked["simulate"]:
        points = wall.scaling(shape, job, machine)
        answers["scaling"] = [asdict(point) for point in points]
        tables.append(screen.scaling_table(points))
        notes.append(
            "simulated: 1 % of times three times as long, each worker fails once in 30 days, elastic crew"
        )
        if asked["plot"] is not None:
            link = machine.link
            network = f"rounds of {1e3 * link.round_s:.2g} ms" + (
                f", {8e-6 * link.rate:g} Mbit/s" if link.rate else ""
            )
            title = f"{shape.name}, one probe of {job.batch} x {job.tokens} tokens a worker\n{machine.machine}; {network}"
            wall.draw(points, title, asked["plot"])


def _job(asked: dict[str, Any], method: str) -> Any:
    """The step that the options describe, with the forward passes and rounds of the method."""
    from zodist.noise import LAWS
    from zodist.plan.asking import asked_of
    from zodist.plan.calibration import BYTES
    from zodist.plan.cost import COUPLINGS, Job

    for name, known in (("dtype", BYTES), ("noise", LAWS), ("coupling", COUPLINGS)):
        if asked[name] not in known:
            raise ConfigError(f"--{name} {asked[name]!r} is not known; choose one of {', '.join(known)}")
    points, rounds = asked_of(method)
    names = ("workers", "probes", "lanes", "batch", "tokens", "dtype", "coupling", "rank", "beside")
    return Job(**{name: asked[name] for name in names}, law=asked["noise"], points=points, rounds=rounds)


def _link(link: Any, mbit: float, delay_ms: float) -> Any:
    """Of hosts with a link of this kind each: there no further worker crowds the cores of the others."""
    changed: dict[str, Any] = {"round_s": link.round_s + FLIGHTS * delay_ms / 1e3, "peer_s": 0.0}
    if mbit:
        changed["rate"] = mbit * 1e6 / 8
    return link.model_copy(update=changed) if mbit or delay_ms else link


def _calibrated(threads: int) -> Any:
    """This machine's rates; None on all workers but the first."""
    from contextlib import closing

    from zodist.exchange import budget, cores, open_exchange, start
    from zodist.plan.measure import calibrate

    with closing(open_exchange("auto", 300.0)) as exchange:
        found = calibrate(threads or budget(start(cores()).beside), exchange)
        return found if exchange.worker == 0 else None
