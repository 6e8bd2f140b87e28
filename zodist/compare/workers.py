"""Runs trained one after another on one loaded model, in this process or in some of their own.

Loading a model takes longer than a short run, so each process loads it once and puts the base weights back between runs,
bit for bit; and the base model is evaluated once for all runs (before.jsonl).  A run travels as the text of its config
file, the answer as one JSON object: {} when it has finished, {"failed": reason} when it has diverged, {"error": sentence}
when somebody has to act.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zodist.compare.plan import Planned
from zodist.compare.results import FAILED
from zodist.errors import ZodistError
from zodist.exchange import budget, prepare_environment
from zodist.journal import read_lines, write_whole

BEFORE = "before.jsonl"
Answer = dict[str, str]


class Desk:
    """Trains runs of one comparison, one after another, on one model.  out: the comparison's folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._loaded: Any = None
        self._base: list[tuple[Any, Any]] = []

    def run(self, text: str, folder: Path) -> Answer:
        """Train what a config file's text says; its run.folder is ``folder``."""
        from zodist.config import settings as settings
        from zodist.run import train

        path = folder / "config.toml"
        try:
            tables, places = settings.parse(text, path)
            config = settings.validate(tables, path, places)
            loaded = self._lend(config)
            key = {
                "model": loaded.fingerprint,
                "task": loaded.task.fingerprint(),
                "threads": config.run.threads,
            }
            known = [line["line"] for line in read_lines(self.out / BEFORE) if line.get("of") == key]
            train(config, quiet=True, loaded=loaded, known=known)
            self._share(folder, key, known)
        except (ArithmeticError, np.linalg.LinAlgError) as error:
            return self._diverged(folder, f"{type(error).__name__}: {error}")
        except ZodistError as error:
            # The classes below it are about files, settings and other workers; the step raises the plain one when no
            # loss is finite.
            return self._diverged(folder, str(error)) if type(error) is ZodistError else {"error": str(error)}
        except Exception as error:  # a defect of one method must not cost the runs of the others
            return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        return {}

    def _diverged(self, folder: Path, reason: str) -> Answer:
        """Numbers that no longer make sense are a result, and stay one: nobody need try the run again."""
        write_whole(folder / FAILED, json.dumps({"reason": reason}) + "\n")
        return {"failed": reason}

    def _lend(self, config: Any) -> Any:
        """The loaded model, with the base weights, and the task."""
        from zodist.models import params
        from zodist.run import load

        if self._loaded is None:
            self._loaded = load(config)
            # Each run has a fresh adapter, and the weights beside it never change.
            model, adapter = self._loaded.model, config.model.adapter
            chosen = [] if adapter else params.collect(model, config.model.train)
            self._base = [(p.model, p.model.clone()) for p in chosen]
        else:
            for weights, base in self._base:
                weights.copy_(base)
        return self._loaded

    def _share(self, folder: Path, key: Mapping[str, Any], known: list[dict[str, Any]]) -> None:
        """Leave this run's evaluations of the base model for the others."""
        seen = {line["split"] for line in known}
        found = [
            line for line in read_lines(folder / "metrics.jsonl") if line["step"] == 0 and "split" in line
        ]
        fresh = [json.dumps({"of": key, "line": line}) + "\n" for line in found if line["split"] not in seen]
        if fresh:
            with (self.out / BEFORE).open("a", encoding="ascii") as file:
                file.write("".join(fresh))


class Workers(Protocol):
    """Takes runs and gives answers."""

    def free(self) -> bool:
        """Whether a run can be submitted."""
        ...

    def submit(self, run: Planned) -> None:
        """Hand a run over."""
        ...

    def next(self) -> tuple[Planned, Answer]:
        """Wait until one of the runs at work ends."""
        ...

    def close(self) -> None:
        """Stop; runs at work are abandoned, their journals are intact."""
        ...


class Here:
    """One run at a time, in this process."""

    def __init__(self, out: Path) -> None:
        self._desk, self._run = Desk(out), None

    def free(self) -> bool:
        return self._run is None

    def submit(self, run: Planned) -> None:
        self._run = run

    def next(self) -> tuple[Planned, Answer]:
        run = self._run
        assert run is not None
        self._run = None
        return run, self._desk.run(run.config.to_toml(), run.folder)

    def close(self) -> None:
        pass


class Processes:
    """Up to ``jobs`` runs at a time, each in a process of its own that is started when it is first needed."""

    def __init__(self, out: Path, jobs: int) -> None:
        self.out, self.jobs = out, jobs
        # Never a plain fork: the pools of torch and numba do not survive it.
        self._context = multiprocessing.get_context("forkserver")
        self._processes: dict[Connection, Any] = {}
        self._idle: list[Connection] = []
        self._busy: dict[Connection, Planned] = {}

    def free(self) -> bool:
        return len(self._busy) < self.jobs

    def submit(self, run: Planned) -> None:
        connection = self._idle.pop() if self._idle else self._start()
        self._busy[connection] = run
        job = {"text": run.config.to_toml(), "folder": str(run.folder)}
        with suppress(OSError):  # a process that has died is noticed by next
            connection.send_bytes(json.dumps(job).encode())

    def next(self) -> tuple[Planned, Answer]:
        connection = wait(list(self._busy))[0]
        assert isinstance(connection, Connection)
        run = self._busy.pop(connection)
        try:
            answer = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            connection.close()
            return run, {"error": "its process was killed; if memory is short, use fewer --jobs"}
        self._idle.append(connection)
        return run, answer

    def close(self) -> None:
        for connection in self._idle:
            with suppress(OSError):
                connection.send_bytes(b"")
        for connection in self._idle:
            self._processes[connection].join(10.0)
        for connection in (*self._idle, *self._busy):
            connection.close()  # which ends a process at work, see _receive

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, str(self.out)), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours


def _work(connection: Connection, out: str) -> None:
    """A worker process: runs come in, answers go out, until an empty message or the end of the parent."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # an interrupt is for the parent, whose end ends this process
    prepare_environment()
    jobs: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, jobs), daemon=True).start()
    desk = Desk(Path(out))
    while job := jobs.get():
        answer = desk.run(job["text"], Path(job["folder"]))
        connection.send_bytes(json.dumps(answer).encode())


def _receive(connection: Connection, jobs: queue.SimpleQueue[dict[str, str]]) -> None:
    """Queue what comes in; end the process at once when the parent is gone, so that no run goes on unwatched."""
    while True:
        try:
            job = connection.recv_bytes()
            jobs.put(json.loads(job) if job else {})
        except (EOFError, OSError):
            os._exit(1)


def shares(threads: int, jobs: int) -> tuple[int, int]:
    """Threads of a run and runs at a time.  0 threads: what the jobs leave, or one; 0 jobs: what the threads leave."""
    if not threads:
        threads = budget(jobs) if jobs else 1
    return threads, jobs or budget(threads)


def start(out: Path, jobs: int) -> Workers:
    """Workers for so many runs at a time."""
    return Here(out) if jobs == 1 else Processes(out, jobs)
