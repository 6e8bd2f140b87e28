"""The shared secret that seals an elastic run's messages: from a file, or from the environment."""

from __future__ import annotations

import os
from pathlib import Path

from zodist.errors import ConfigError

VARIABLE = "ZODIST_KEY"
_LEAST = 16


def read_secret(key_file: str) -> bytes:
    """The secret in a file, else that in the environment, else none.

    White space at its ends does not count.  Raises ConfigError if it cannot be read or is too short to protect anything.
    """
    if key_file:
        try:
            secret = Path(key_file).read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"cannot read exchange.key_file = {key_file!r}: {error.strerror}") from error
        where = f"exchange.key_file = {key_file!r}"
    else:
        secret, where = os.environ.get(VARIABLE, "").encode().strip(), f"the environment variable {VARIABLE}"
        if not secret:
            return b""
    if len(secret) < _LEAST:
        raise ConfigError(
            f"{where} holds {len(secret)} bytes; a secret needs {_LEAST} or more, such as 32 hexadecimal digits"
        )
    return secret
