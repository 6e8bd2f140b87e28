"""A switch in user space: frames between hosts are held back, dropped or queued here, where the kernel has no netem.

``python -m zodist.scale.tap NAMESPACE...``, started inside the namespace of the switch: every host gets a TAP device called
tap0.  One JSON object a line on standard input sets the links; each is answered with a line, and the end of the input ends
the switch.  An interpreter that touches every frame carries some 200 Mbit/s in all, so faster links are not limited by
their rate here.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import selectors
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zodist import noise
from zodist.scale.cell import Link

_TUNSETIFF, _TAP, _NO_HEADER = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
FRAME_BYTES = 1514 + 4
QUEUE_S = 0.5  # a frame that would wait longer for its host's link is dropped
DRAWS = 1 << 16


@dataclass(slots=True)
class Port:
    """A host's device.  free_at: when its link has sent what is queued; last: when the last frame arrives there."""

    file: int
    free_at: float = 0.0
    last: float = 0.0


class Switch:
    """Frames wait in one queue until they are due."""

    def __init__(self, ports: Sequence[Port]) -> None:
        self.ports, self.link = ports, Link()
        self.table: dict[bytes, Port] = {}
        self.queue: list[tuple[float, int, Port, bytes]] = []
        drawn = noise.words(0, 0, noise.ORDER, np.arange(DRAWS // 4, dtype=np.uint64))
        self._draws: list[float] = (drawn.reshape(-1) * 2.0**-32).tolist()
        self._drawn = self._number = 0

    def take(self, port: Port) -> None:
        """Read what a host has sent, and queue it for where it goes."""
        for _ in range(64):
            try:
                frame = os.read(port.file, FRAME_BYTES)
            except BlockingIOError:
                return
            self.table[frame[6:12]] = port
            to = self.table.get(frame[:6])
            for other in [to] if to is not None else [p for p in self.ports if p is not port]:
                self._queue(other, frame)

    def deliver(self) -> float | None:
        """Write the frames that are due; seconds until the next is, None if there is none."""
        now = time.monotonic()
        while self.queue and self.queue[0][0] <= now:
            _, _, port, frame = heapq.heappop(self.queue)
            try:
                os.write(port.file, frame)
            except OSError:
                pass  # a device that is full, or down, drops frames, as real ones do
        return max(0.0, self.queue[0][0] - now) if self.queue else None

    def _queue(self, port: Port, frame: bytes) -> None:
        link, now = self.link, time.monotonic()
        if link.loss and self._draw() < link.loss:
            return
        begin = now
        if link.mbit is not None:  # of the receiver; the sender's is shaped by the kernel on its own device
            begin = max(now, port.free_at)
            if begin - now > QUEUE_S:
                return
            begin += len(frame) * 8e-6 / link.mbit
            port.free_at = begin
        jitter = link.jitter_ms * (2.0 * self._draw() - 1.0) if link.jitter_ms else 0.0
        due = max(begin + max(0.0, link.delay_ms + jitter) / 1e3, port.last)  # nothing overtakes
        port.last = due
        self._number += 1
        heapq.heappush(self.queue, (due, self._number, port, frame))

    def _draw(self) -> float:
        self._drawn = (self._drawn + 1) % DRAWS
        return self._draws[self._drawn]


def _port(number: int, namespace: str) -> Port:
    """A TAP device, made here and moved to the host; it stays connected to the file."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"t{number}"
    fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22s", name.encode(), _TAP | _NO_HEADER, b""))
    subprocess.run(["ip", "link", "set", name, "netns", namespace, "name", "tap0"], check=True)
    return Port(file)


def main() -> None:
    """Make the devices, then forward until standard input ends."""
    ports = [_port(number, namespace) for number, namespace in enumerate(sys.argv[1:])]
    switch, watched = Switch(ports), selectors.DefaultSelector()
    watched.register(sys.stdin, selectors.EVENT_READ)
    for port in ports:
        watched.register(port.file, selectors.EVENT_READ, port)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for key, _ in watched.select(switch.deliver()):
            if key.data is not None:
                switch.take(key.data)
                continue
            line = sys.stdin.readline()
            if not line:
                return
            switch.link = Link(**json.loads(line))
            sys.stdout.write("set\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
