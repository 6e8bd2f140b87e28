"""Hosts of a network of their own on this machine: network namespaces on a bridge, whose links a test may take down."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_NETWORK = 0x40000000  # CLONE_NEWNET of sched.h


def missing() -> str:
    """Why there can be no such network here, in words; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "no ip here; apt-get install iproute2"
    name = f"zodist-{os.getpid()}-try"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "no network namespaces here"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return ""


def enter(name: str) -> None:
    """Move this thread, and those it will start, into a host.  For a process that has only just begun."""
    descriptor = os.open(Path("/var/run/netns") / name, os.O_RDONLY)
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, _NETWORK):
        raise OSError(ctypes.get_errno(), f"cannot enter {name}")
    os.close(descriptor)


class Network:
    """Host 0 holds the bridge and has address 10.0.0.1; every other host n has a link to it and 10.0.0.(n + 1)."""

    def __init__(self, hosts: int) -> None:
        self.names = [f"zodist-{os.getpid()}-{n}" for n in range(hosts)]

    def start(self, stack: ExitStack) -> None:
        """Make the hosts; the stack takes them away again."""
        for name in self.names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "delete", name)
            _ip("-n", name, "link", "set", "lo", "up")
        switch = self.names[0]
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "addr", "add", "10.0.0.1/24", "dev", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for n, name in enumerate(self.names[1:], 1):
            port = ["type", "veth", "peer", "name", f"port{n}", "netns", switch]
            _ip("link", "add", "link0", "netns", name, *port)
            _ip("-n", name, "addr", "add", f"10.0.0.{n + 1}/24", "dev", "link0")
            _ip("-n", name, "link", "set", "link0", "up")
            _ip("-n", switch, "link", "set", f"port{n}", "master", "bridge", "up")

    def link(self, host: int, state: str) -> None:
        """Set the link of a host "up" or "down": from then on no packet passes, and no connection is closed."""
        _ip("-n", self.names[0], "link", "set", f"port{host}", state)


@contextmanager
def network(hosts: int) -> Iterator[Network]:
    """A network of some hosts; nothing of it remains afterwards."""
    with ExitStack() as stack:
        made = Network(hosts)
        made.start(stack)
        yield made


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
