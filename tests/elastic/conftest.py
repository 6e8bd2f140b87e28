"""A place, a local run in it and a fleet of long runs, for the files here that ask for no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from elastic_runs import Fleet
from runs import Place, finish, make_place
from test_elastic import LONG


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def reference(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Journal and last snapshot of a local run."""
    folder = tmp_path_factory.mktemp("local")
    finish(place, 1, *LONG, f"run.folder={folder}")
    return (folder / "journal.jsonl").read_bytes(), (folder / "snapshot-00000060.safetensors").read_bytes()


@pytest.fixture
def fleet(place: Place, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(place, tmp_path, *LONG)
    yield made
    made.close()
