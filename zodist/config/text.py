"""Settings as TOML text: keys and values such that a reader gets back what was written, bit for bit."""

from __future__ import annotations

import json
import re
from typing import Any


def key_text(key: str) -> str:
    """A key in TOML, quoted where it must be."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else value_text(key)


def value_text(value: Any) -> str:
    """A value in TOML; entries of a table that are None are left out."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(value_text(item) for item in value)}]"
    if isinstance(value, dict):
        items = (f"{key_text(key)} = {value_text(item)}" for key, item in value.items() if item is not None)
        return f"{{{', '.join(items)}}}"
    return json.dumps(value)  # also true and false; floats in the shortest form that reads back the same
