"""The hosts of a sweep: network namespaces with shaped links on one Linux machine, or plain loopback without root.

Every host has two ways out, of which a cell uses one: eth0 to a bridge, shaped by tbf, for rates alone; and tap0 to a switch
in user space (tap.py) for delays.  All names carry this process's number, so what a killed sweep has left is known and
removed by the next one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Protocol

from zodist.errors import ConfigError, ExchangeError
from zodist.scale.cell import Link
from zodist.scale.counters import LOOPBACK

PREFIX = "zodist-scale-"
RUN = Path("/var/run/netns")
BURST_S, LEAST_BURST = (
    0.001,
    3028,
)  # what a link lets through at once: a millisecond's bytes, at least two frames
QUEUE_MS = 500  # what waits longer for a link is dropped


class Network(Protocol):
    """Where workers run.  said: what its links are; interface, address: those of worker 0, as the last link needs them."""

    said: str

    @property
    def interface(self) -> str:
        """The interface that the workers use now."""
        ...

    @property
    def address(self) -> str:
        """Where the others find worker 0 now."""
        ...

    def inside(self, worker: int) -> list[str]:
        """What to put before a command so that it runs on a worker's host."""
        ...

    def shape(self, link: Link) -> str:
        """Make all links so; returns what of it is not done, "" if all is."""
        ...

    def close(self) -> None:
        """Remove the hosts."""
        ...


class Loopback:
    """Processes of one machine without anything between them."""

    said = "loopback"
    interface, address = LOOPBACK, "127.0.0.1"

    def inside(self, worker: int) -> list[str]:
        return []

    def shape(self, link: Link) -> str:
        return f"nothing is shaped on loopback, asked was {link}" if link.shaped else ""

    def close(self) -> None:
        pass


class Namespaces:
    """One network namespace a worker."""

    said = "network namespaces on one machine"

    def __init__(self, workers: int) -> None:
        """Make the hosts.  Raises ConfigError if this is not possible here."""
        self._remove_stale()
        own = f"{PREFIX}{os.getpid()}"
        self._switch, self._hosts = f"{own}-sw", [f"{own}-h{w}" for w in range(workers)]
        self._tap: subprocess.Popen[str] | None = None
        self._delayed = False
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    @property
    def interface(self) -> str:
        return "tap0" if self._delayed else "eth0"

    @property
    def address(self) -> str:
        return _address(0, self._delayed)

    def inside(self, worker: int) -> list[str]:
        return ["nsenter", f"--net={RUN / self._hosts[worker]}"]

    def shape(self, link: Link) -> str:
        self._delayed = link.delayed
        if link.delayed and self._tap is None:
            self._start_tap()
        ends = [(host, self.interface) for host in self._hosts]
        if not link.delayed:  # the other direction of the kernel's links; the switch has its own
            ends += [(self._switch, f"p{w}") for w in range(len(self._hosts))]
        for namespace, device in ends:
            _limit(namespace, device, link.mbit)
        if link.delayed:
            self._tell(json.dumps(asdict(link)))
        return ""

    def close(self) -> None:
        if self._tap is not None:
            _end(self._tap)
            self._tap = None
        for namespace in [*self._hosts, self._switch]:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True)

    def _make(self) -> None:
        lines = [f"netns add {self._switch}"]
        _ip(lines)
        bridge = ["link add br0 type bridge", "link set br0 up", "link set lo up"]
        _ip(bridge, self._switch)
        for w, host in enumerate(self._hosts):
            _ip(
                [
                    f"netns add {host}",
                    f"link add eth0 netns {host} type veth peer name p{w} netns {self._switch}",
                ]
            )
            _ip([f"addr add {_address(w, False)}/24 dev eth0", "link set eth0 up", "link set lo up"], host)
            _ip([f"link set p{w} master br0 up"], self._switch)

    def _start_tap(self) -> None:
        inside = ["nsenter", f"--net={RUN / self._switch}"]
        command = [*inside, sys.executable, "-m", "zodist.scale.tap", *self._hosts]
        self._tap = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=environment(),
        )
        self._read()
        for w, host in enumerate(self._hosts):
            _ip([f"addr add {_address(w, True)}/24 dev tap0", "link set tap0 up"], host)

    def _tell(self, line: str) -> None:
        assert self._tap is not None and self._tap.stdin is not None
        self._tap.stdin.write(line + "\n")
        self._tap.stdin.flush()
        self._read()

    def _read(self) -> None:
        assert self._tap is not None
        out: IO[str] | None = self._tap.stdout
        if out is None or not out.readline():
            raise ExchangeError(
                "the switch for delays has ended: is there /dev/net/tun? without it sweep --delays 0 alone"
            )

    @staticmethod
    def _remove_stale() -> None:
        """Namespaces of sweeps whose process is gone."""
        for path in RUN.glob(f"{PREFIX}*-*"):
            number = path.name.removeprefix(PREFIX).partition("-")[0]
            if number.isdecimal() and not Path(f"/proc/{number}").exists():
                subprocess.run(["ip", "netns", "del", path.name], capture_output=True)


def missing() -> str:
    """Why there can be no namespaces here, "" if there can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [tool for tool in ("ip", "tc", "nsenter") if shutil.which(tool) is None]
    if absent:
        return f"{' and '.join(absent)} not found (Debian: apt-get install iproute2 util-linux)"
    tried = f"{PREFIX}{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", tried], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", tried], capture_output=True)
    return f"ip netns add is refused: {made.stderr.strip()}" if made.returncode else ""


def environment() -> dict[str, str]:
    """What started processes need to find this package, from whatever folder."""
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path}


def _address(worker: int, delayed: bool) -> str:
    return f"10.{78 if delayed else 77}.0.{worker + 1}"


def _ip(lines: Sequence[str], namespace: str = "") -> None:
    """Run commands of ip.  Raises ConfigError if one is refused."""
    where = ["-n", namespace] if namespace else []
    done = subprocess.run(
        ["ip", *where, "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise ConfigError(f"the hosts cannot be connected ({reason}); run with --loopback")


def _limit(namespace: str, device: str, mbit: float | None) -> None:
    """The rate at which a device sends."""
    if mbit is None:
        subprocess.run(["tc", "-n", namespace, "qdisc", "del", "dev", device, "root"], capture_output=True)
        return
    burst = max(LEAST_BURST, round(mbit * 1e6 / 8 * BURST_S))
    what = ["tbf", "rate", f"{mbit}mbit", "burst", str(burst), "latency", f"{QUEUE_MS}ms"]
    command = ["tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", *what]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(
            f"a link cannot be limited ({done.stderr.strip()}); sweep --rates none, or --loopback"
        )


def _end(process: subprocess.Popen[str]) -> None:
    """Let a process see the end of its input; kill it if it does not care."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
