"""The method in docs/your-own-method.md is a real one: installed as a package, put through the suite, trained with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from pages import blocks, section
from runs import Place, make_place

BLOCKS = blocks(section("Your method in 40 lines"))


@dataclass(frozen=True)
class Installed:
    """A folder on the path that holds the package and what an installer writes beside it."""

    site: Path
    place: Place

    def run(self, *arguments: object) -> str:
        """The standard output of a command that must succeed."""
        environment = os.environ | {"PYTHONPATH": str(self.site)}
        command = [sys.executable, "-m", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.site, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The page's blocks, put where pip would put them."""
    site = tmp_path_factory.mktemp("site")
    (method, table, test) = (text for language, text in BLOCKS if language in ("python", "toml"))
    (site / "mine.py").write_text(method)
    (site / "test_mine.py").write_text(test)
    project = tomllib.loads(table)["project"]
    info = site / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {where}" for name, where in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return Installed(site, make_place(tmp_path_factory.mktemp("place")))


def test_the_method_has_the_lines_that_the_heading_says() -> None:
    assert [language for language, _ in BLOCKS] == ["python", "toml", "python", ""]
    assert len(BLOCKS[0][1].splitlines()) <= 40


def test_it_passes_the_suite_by_the_pages_test_file(installed: Installed) -> None:
    from zodist.testing import CHECKS

    printed = installed.run("pytest", "-q", "-p", "no:cacheprovider", "test_mine.py")
    assert f"{len(CHECKS)} passed" in printed


def test_it_trains_by_the_command_line_and_its_journal_replays(installed: Installed) -> None:
    """Two commands, typed into one interpreter: starting it takes longer than they do."""
    place = installed.place
    train = ["train", str(place.config), "method.name=mine", "run.steps=6", "output.plot=false"]
    (installed.site / "both.py").write_text(
        "import sys\n"
        "from zodist.__main__ import main\n"
        f"for arguments in {[train, ['replay', str(place.run), '--json']]!r}:\n"
        "    sys.argv[1:] = arguments\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as left:\n"
        "        assert not left.code\n"
    )
    printed = installed.run("both")
    assert place.lines("journal.jsonl")[0]["method"]["name"] == "mine"
    replayed = json.loads(printed[printed.rindex("{") :])
    assert replayed["digest"] == place.digest() and replayed["verified"]
