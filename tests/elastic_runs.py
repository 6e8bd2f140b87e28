"""A supervisor and workers as real processes, each of which a test may kill, stop or start again at any moment."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runs import CONTEXT, PATIENCE_S, Place, wait_for


def free_port() -> int:
    """A port that the supervisor of a test may have, and have again after it was killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _quiet(log: Path) -> None:
    """Standard error into a file, torch's own too; and where every thread stands, when a test gives up."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    faulthandler.register(signal.SIGUSR2, file=descriptor)


def _supervise(
    config: Path,
    overrides: tuple[str, ...],
    bind: str,
    port: int,
    log: Path,
    limit: int,
    prepare: Callable[..., None] | None,
    args: tuple,
) -> None:
    _quiet(log)
    if prepare is not None:
        prepare(*args)
    from zodist.config import load
    from zodist.elastic import serve
    from zodist.errors import ZodistError
    from zodist.exchange import stopping

    stopping.listen()
    if limit:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def say(text: str) -> None:
        with log.open("a") as file:
            file.write(text + "\n")

    try:
        serve(load(config, overrides), bind, port, say)
    except ZodistError as found:
        say(f"zodist: {found}")
        os._exit(2)


def _gate(folder: Path) -> None:
    """Let this process begin no step from the one on that the file ``gate`` names, and say so while it waits."""
    from zodist.step import Division

    call, gate, waits = Division.asked, folder / "gate", folder / f"waits-{os.getpid()}"

    def closed(step: int) -> bool:
        with suppress(FileNotFoundError):
            return step >= int(gate.read_text())
        return False

    def gated(self, step, round, lr, probes, lanes):
        while closed(step):
            waits.write_text(str(step))
            time.sleep(0.01)
        waits.unlink(missing_ok=True)
        return call(self, step, round, lr, probes, lanes)

    Division.asked = gated  # type: ignore[method-assign]


def work(
    config: Path | str,
    overrides: tuple[str, ...],
    log: Path,
    prepare: Callable[..., None] | None,
    args: tuple,
) -> None:
    _quiet(log)
    _gate(log.parent)
    if prepare is not None:
        prepare(*args)
    from zodist.config import load
    from zodist.elastic import fetch
    from zodist.errors import ZodistError
    from zodist.exchange import stopping
    from zodist.run import train

    stopping.listen()
    try:
        result = train(fetch(config, overrides) if isinstance(config, str) else load(config, overrides))
    except ZodistError as found:
        os.write(2, f"zodist: {type(found).__name__}: {found}\n".encode())
        os._exit(2)
    os.write(2, f"digest {result.digest}\n".encode())


class Fleet:
    """One elastic run: a supervisor that may be restarted, and any number of workers."""

    def __init__(self, place: Place, folder: Path, *overrides: str) -> None:
        self.place, self.folder, self.host, self.port = place, folder, "127.0.0.1", free_port()
        self.overrides = (f"run.folder={folder / 'run'}", "exchange.digest_every=5", *overrides)
        self.supervisors: list = []
        self.workers: list = []

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def supervise(
        self, limit: int = 0, *, prepare: Callable[..., None] | None = None, args: tuple = ()
    ) -> None:
        """Start the supervisor, on the same port each time.  limit: bytes that a file may have; prepare: called first."""
        log = self.folder / "supervisor.log"
        where = (self.place.config, self.overrides, self.host, self.port, log)
        process = CONTEXT.Process(target=_supervise, args=(*where, limit, prepare, args), daemon=True)
        process.start()
        self.supervisors.append(process)

    def work(
        self, count: int = 1, *overrides: str, prepare: Callable[..., None] | None = None, args: tuple = ()
    ) -> int:
        """Start workers; returns the place of the last one in ``workers``.  prepare: called there first."""
        store = ("exchange.kind=store", f"exchange.address={self.host}:{self.port}")
        for _ in range(count):
            self._start(self.place.config, (*self.overrides, *store, *overrides), prepare, args)
        return len(self.workers) - 1

    def join(self, *overrides: str) -> int:
        """Start a worker that has nothing but the address; returns its place in ``workers``."""
        self._start(f"{self.host}:{self.port}", overrides, None, ())
        return len(self.workers) - 1

    def _start(self, config: Path | str, overrides: tuple[str, ...], prepare: object, args: tuple) -> None:
        log = self.folder / f"worker-{len(self.workers)}.log"
        process = CONTEXT.Process(target=work, args=(config, overrides, log, prepare, args), daemon=True)
        process.start()
        self.workers.append(process)

    def hold(self, step: int, workers: int = 0) -> None:
        """No worker begins this step or a later one before the gate is moved; waits until so many stand there."""
        new = self.folder / "gate.new"
        new.write_text(str(step))
        new.replace(self.folder / "gate")
        if workers:
            try:
                wait_for(lambda: self._waiting(step) >= workers, PATIENCE_S)
            except AssertionError as error:
                raise AssertionError(self.words()) from error

    def _waiting(self, step: int) -> int:
        count = 0
        for note in self.folder.glob("waits-*"):
            with suppress(FileNotFoundError):  # it has just gone on
                count += note.read_text() == str(step)
        return count

    def release(self) -> None:
        """Open the gate."""
        (self.folder / "gate").unlink()

    def ended(self, worker: int, seconds: float = PATIENCE_S) -> int | None:
        """The exit status of a worker that is about to end."""
        self.workers[worker].join(seconds)
        return self.workers[worker].exitcode

    def signal(self, worker: int, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.workers[worker].pid, number)

    def kill(self, worker: int) -> None:
        self.signal(worker, signal.SIGKILL)
        self.workers[worker].join()

    def kill_supervisor(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.supervisors[-1].pid, signal.SIGKILL)
        self.supervisors[-1].join()

    def rounds(self) -> int:
        """Rounds on disk."""
        journal = self.run / "journal.jsonl"
        return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0

    def until(self, rounds: int, seconds: float = PATIENCE_S) -> None:
        """Wait until so many rounds are on disk."""
        try:
            wait_for(lambda: self.rounds() >= rounds, seconds)
        except AssertionError as error:
            raise AssertionError(self.words()) from error

    def finish(self, seconds: float = PATIENCE_S) -> None:
        """Wait until the supervisor has seen the last step; fails with everybody's words."""
        self.supervisors[-1].join(seconds)
        assert self.supervisors[-1].exitcode == 0, self.words()

    def close(self) -> None:
        """End what still runs."""
        for process in [*self.workers, *self.supervisors]:
            if process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                process.join()

    def log(self, name: str) -> str:
        """What the supervisor or a worker has said."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def words(self) -> str:
        """What all have said, and where those that run now stand."""
        for process in [*self.workers, *self.supervisors]:
            if process.is_alive():
                os.kill(process.pid, signal.SIGUSR2)
        time.sleep(0.5)
        names = ["supervisor", *(f"worker-{n}" for n in range(len(self.workers)))]
        return "\n".join(f"{name}:\n{self.log(name)[-3000:]}" for name in names)


def slow_replay(seconds: float) -> None:
    """Make every replayed step of this process take so long."""
    from zodist.step import Replayed

    call = Replayed.__call__

    def slowly(self, *question):
        time.sleep(seconds)
        return call(self, *question)

    Replayed.__call__ = slowly  # type: ignore[method-assign]
