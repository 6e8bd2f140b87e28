"""The settings of a run from its supervisor: a worker needs no more than the address."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from zodist.config import Config, load
from zodist.elastic.connection import Connection, Lost
from zodist.elastic.frames import Refused, Seal
from zodist.elastic.secret import read_secret
from zodist.errors import ExchangeError, WorkerLost

_KEY_FILE = "exchange.key_file="
_TIMEOUT_S = 60.0


def fetch(address: str, overrides: Sequence[str] = ()) -> Config:
    """The settings of the run that is supervised at "host:port", changed by overrides as config.load takes them.

    Raises WorkerLost if nobody answers, ExchangeError if the shared secret differs.
    """
    files = [text.removeprefix(_KEY_FILE) for text in overrides if text.startswith(_KEY_FILE)]
    seal = Seal(read_secret(files[-1] if files else ""))
    connection = Connection(address, _TIMEOUT_S)
    try:
        text = seal.open(_config(connection), "config").payload
    except Refused as why:
        raise ExchangeError(
            f"cannot use what {address} says (config: {why}); give the supervisor and all workers the same "
            "exchange.key_file and version of zodist"
        ) from why
    finally:
        connection.close()
    with tempfile.TemporaryDirectory(prefix="zodist-") as folder:
        path = Path(folder) / "config.toml"
        path.write_bytes(text)
        return load(path, ["exchange.kind=store", f"exchange.address={address}", *overrides])


def _config(connection: Connection) -> bytes:
    end = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < end:
        try:
            if connection.wait("present", 1.0):
                return connection.get("config")
        except Lost:
            connection.connect()
    raise WorkerLost(f"what answers at {connection.address} is no supervisor of zodist; correct the address")
