"""Bytes that crossed an interface, as the kernel counts them: link-layer frames with all their headers."""

from __future__ import annotations

from pathlib import Path

_COLUMNS = (8, 0, 9)  # of /proc/net/dev: bytes sent, bytes received, packets sent
LOOPBACK = "lo"


def counted(interface: str) -> tuple[int, ...]:
    """Bytes sent, bytes received and packets sent so far by an interface of this process's network.

    "": by all interfaces but loopback.
    """
    total = [0] * len(_COLUMNS)
    for line in Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]:
        name, _, text = line.partition(":")
        if name.strip() == interface if interface else name.strip() != LOOPBACK:
            columns = text.split()
            total = [sum(pair) for pair in zip(total, (int(columns[c]) for c in _COLUMNS), strict=True)]
    return tuple(total)
