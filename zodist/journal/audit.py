"""What a run folder or a journal is: steps, losses, bytes, and whether every checksum holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zodist.errors import JournalError
from zodist.journal import snapshot
from zodist.journal.file import read
from zodist.journal.metrics import read_lines
from zodist.step import records


def inspect(path: Path) -> dict[str, Any]:
    """Figures of a run, from its files alone (no model).  Raises JournalError when a checksum does not hold.

    steps: those begun; only the method can tell whether the last has all its rounds.
    """
    folder = path if path.is_dir() else path.parent
    journal = folder / "journal.jsonl" if path.is_dir() else path
    if not journal.exists():
        raise JournalError(f"{path} holds no journal.jsonl; name a run folder or a journal")
    contents = read(journal)
    head, entries = contents.header, contents.entries
    steps = entries[-1].step + 1 if entries else 0
    values = [records.from_values(e.values) for e in entries]
    losses = [float(np.nanmean(v)) for v in values if np.isfinite(v).any()]
    found = snapshot.newest(folder, head["run"], steps, entries[-1].round + 1 if entries else 0)
    metrics = list(read_lines(folder / "metrics.jsonl"))
    digests = [line for line in metrics if "digest" in line]
    sessions = list(read_lines(folder / "timings.jsonl"))
    last = {line["session"]: line for line in sessions if "sent" in line}
    evaluations = [line for line in metrics if "split" in line]
    return {
        "folder": str(folder),
        "run": head["run"],
        "method": head["method"]["name"],
        "rule": head["rule"]["name"],
        "task": head["task"]["name"],
        "model_fingerprint": head["model"]["fingerprint"],
        "noise": head["noise"],
        "seed": head["seed"],
        "threads": head["threads"],
        "steps": steps,
        "rounds": len(entries),
        "probes": len(entries[0].values) // head["batch"]["data_lanes"] if entries else 0,
        "forwards": int(sum(e.values.size for e in entries)),
        "loss_first": losses[0] if losses else None,
        "loss_last": float(np.mean(losses[-50:])) if losses else None,
        "evaluations": evaluations,
        "journal_bytes": journal.stat().st_size,
        "torn": contents.torn,
        "digest": digests[-1]["digest"] if digests else None,
        "digest_step": digests[-1]["step"] if digests else None,
        "snapshot": found.path.name if found else None,
        "snapshot_step": found.step if found else None,
        "damaged_snapshots": list(found.skipped) if found else [],
        "bytes_sent": sum(line["sent"] for line in last.values()),
        "record_bytes_sent": sum(line["records_sent"] for line in last.values()),
        "bytes_received": sum(line["received"] for line in last.values()),
        "workers": [line["workers"] for line in sessions if "workers" in line][-1:][0] if sessions else 0,
        "sessions": len({line["session"] for line in sessions}),
        "verified": not (found and found.skipped),
    }
