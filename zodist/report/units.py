"""Amounts in words."""

from __future__ import annotations


def amount(size: float) -> str:
    """Bytes in the unit that a person would choose."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
