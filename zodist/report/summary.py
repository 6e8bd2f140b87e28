"""A run in figures: what the page, the terminal and programs are told alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zodist.report.course import crew, phases
from zodist.report.picture import running_mean
from zodist.report.recorded import Run
from zodist.report.slopes import common_part, kurtosis, signal_to_noise, slopes
from zodist.report.units import amount

SPACE = "\N{NO-BREAK SPACE}"


def figures(run: Run) -> dict[str, Any]:
    """The figures of a run, JSON-able; None where the folder does not tell.

    loss: running mean of the training loss after the last step.  before, after: the reported evaluations at step 0 and at
    the last.  record_bytes: of all records of the journal; sent, received: of the worker that wrote the files.
    """
    scores = run.reported
    losses = [line["loss"] for line in run.steps]
    spent, went = phases(run), crew(run)
    before = scores[0] if scores and scores[0]["step"] == 0 else None
    after = scores[-1] if scores and scores[-1] is not before else None
    return {
        "name": run.name,
        "folder": str(run.folder),
        "run": run.header["run"],
        "method": run.method,
        "rule": run.header["rule"]["name"],
        "lr": run.header["rule"]["lr"],
        "task": run.header["task"]["name"],
        "seed": run.header["seed"],
        "steps": run.count,
        "forwards": run.steps[-1].get("forwards") if run.steps else None,
        "skipped": sum(line.get("skipped", 0) for line in run.steps),
        "outliers": sum(line.get("outliers", 0) for line in run.steps),
        "loss": _plain(running_mean(losses, 0.95)[-1]) if losses else None,
        "split": scores[0]["split"] if scores else None,
        "before": before,
        "after": after,
        "seconds": run.seconds,
        "record_bytes": int(run.record_bytes[-1]),
        "sent": run.traffic[0] if run.traffic else None,
        "received": run.traffic[1] if run.traffic else None,
        "workers": run.workers or None,
        "sessions": went.sessions,
        "digest": run.digests[-1]["digest"] if run.digests else None,
        "digest_step": run.digests[-1]["step"] if run.digests else None,
        "phases": spent.total if spent else {},
        "happenings": [[h.step, round(h.seconds, 3), h.text] for h in went.happenings],
        "slopes": _slopes(run),
        "diagnosis": run.diagnosis,
        "missing": run.missing,
    }


def _slopes(run: Run) -> dict[str, Any] | None:
    found = slopes(run)
    if found is None or not len(found.finite):
        return None
    values, ratio = found.finite, signal_to_noise(found)
    over, errors = (part[np.isfinite(part)] for part in common_part(found)[1:3])
    usable = ratio[1][np.isfinite(ratio[1])] if ratio is not None else np.zeros(0)
    return {
        "unit": "nats per weight unit" if found.scaled else "nats",
        "count": len(values),
        "mean": float(values.mean()),
        "spread": float(values.std()),
        "largest": float(np.abs(values).max()),
        "excess_kurtosis": _plain(kurtosis(values)),
        "signal_to_noise": float(np.median(usable)) if len(usable) else None,
        "mean_over_spread": float(np.median(over)) if len(over) else None,
        "mean_over_error": float(np.median(errors)) if len(errors) else None,
        "window": common_part(found)[3],
    }


def _plain(value: float) -> float | None:
    """The number, None if it is not finite: JSON has no such numbers."""
    return value if np.isfinite(value) else None


def score(found: Mapping[str, Any] | None) -> str:
    """An evaluation in few words."""
    if found is None:
        return ""
    if found.get("reward") is not None:
        return f"reward {found['reward']:.4f} ± {found['reward_error']:.4f}"
    if found["accuracy"] is None and found.get("f1") is not None:
        return f"F1 {found['f1']:.1%} ± {found['f1_error']:.1%}, loss {found['loss']:.3f}"
    if found["accuracy"] is None:
        return f"loss {found['loss']:.4f} ± {found['loss_error']:.4f}"
    return f"{found['accuracy']:.1%} ± {found['accuracy_error']:.1%}, loss {found['loss']:.3f}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.3g}{SPACE}s"
    return f"{seconds / 60:.1f}{SPACE}min" if seconds < 6000 else f"{seconds / 3600:.1f}{SPACE}h"


def row(found: Mapping[str, Any]) -> dict[str, str]:
    """The line of a run in a table of runs, by head."""
    forwards, digest = found["forwards"], found["digest"]
    return {
        "run": found["name"],
        "method": f"{found['method']}, {found['rule']}",
        "lr": f"{found['lr']:.3g}",
        "steps": f"{found['steps']:,}",
        "forwards": "" if forwards is None else f"{forwards:,}",
        "training loss": "" if found["loss"] is None else f"{found['loss']:.4f}",
        "before": score(found["before"]),
        "after": score(found["after"]),
        "time": duration(found["seconds"]),
        "records": amount(found["record_bytes"]),
        "digest": f"{digest} ({found['digest_step']})" if digest else "",
    }


def slope_words(found: Mapping[str, Any]) -> dict[str, str]:
    """The figures of the slopes in words, from ``figures(run)["slopes"]``."""
    said = {
        "slopes": f"{found['count']:,}, in {found['unit']}",
        "mean, spread": f"{found['mean']:.4g}, {found['spread']:.4g}",
        "largest": f"{found['largest']:.4g}",
    }
    if found["excess_kurtosis"] is not None:
        said["excess kurtosis"] = (
            f"{found['excess_kurtosis']:.2f} (0: a normal law; above: few slopes do most of the work)"
        )
    if found["signal_to_noise"] is not None:
        said["signal to noise"] = f"{found['signal_to_noise']:.3g} (median over windows of steps)"
    if found["mean_over_spread"] is not None:
        over, errors, n = found["mean_over_spread"], found["mean_over_error"], found["window"]
        said["mean / spread"] = (
            f"{over:.3g}, that is {errors:.2f} standard errors (median over windows of {n} slopes; chance: -2 to 2)"
        )
    return said


SIGNAL = (
    "Signal to noise: every direction n was measured on L = {lanes} batches, with mean m_n and variance v_n over them. "
    "SNR = sqrt(max(0, mean(m_n²) − mean(v_n) / L) / (mean(v_n) / L)), means over the directions of a window of steps: the "
    "slopes that the gradient makes, over what the choice of examples adds. At 1 half of the variance of a direction's "
    "mean slope is noise."
)
CHANCE = (
    "With one data lane no direction is measured on two batches, so the noise of the batches cannot be told from the "
    "gradient; set batch.data_lanes above 1 for that. Shown is mean(s) / (std(s) / √n) of n slopes s: directions are "
    "random, so it lies within −2 and 2 in 95 of 100 windows. If it does not and the points are one-sided, the loss's "
    "curvature over eps is in the slopes: lower method.eps."
)
