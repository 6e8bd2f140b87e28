"""Wheel and sdist work outside the checkout: built from a clean copy, installed apart, run from elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import zodist

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NOT_SOURCE = shutil.ignore_patterns(
    ".*_cache", ".git", ".venv", ".hypothesis", "__pycache__", "*.egg-info", "build"
)
# Anything of the caller's that would let the checkout shine through.
CLEAN = {
    key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
}


def run(*command: str | Path, cwd: Path) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=CLEAN, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is made from it (so that a file missing in the sdist shows)."""
    place = tmp_path_factory.mktemp("built")
    copy = place / "copy"
    copy.mkdir()
    for entry in sorted(ROOT.iterdir()):
        if entry.is_file():
            shutil.copy2(entry, copy)
        elif entry.name in {"zodist", "launch", "configs", "docs", "tests", "slurm", ".ci"}:
            shutil.copytree(entry, copy / entry.name, ignore=NOT_SOURCE)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", place / "dist", copy, cwd=place)
    (sdist,) = (place / "dist").glob("*.tar.gz")
    (wheel,) = (place / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel; the dependencies are those of this one."""
    place = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", place / "env", cwd=place)
    python = place / "env" / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    run(*pip, built[1], cwd=place)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip()
    # A folder named in a .pth is only appended to sys.path: the .pth files in it are not read, so an editable
    # installation of the checkout stays invisible.
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_wheel_holds_the_package_its_data_and_its_licence_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        names = set(archive.namelist())
    info = f"zodist-{zodist.__version__}.dist-info"
    expected = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "*.pyi", "tasks/*.toml")
        for path in (ROOT / "zodist").rglob(pattern)
    }
    assert {name for name in names if not name.startswith(info)} == expected
    assert {f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"} <= names


def test_sdist_holds_what_a_checkout_holds(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    top = {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "pyproject.toml",
        ".pre-commit-config.yaml",
    }
    scripts = {f"launch/{path.name}" for path in (ROOT / "launch").iterdir()}
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.toml")}
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    docs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.*")}
    assert not (top | scripts | configs | docs | tests | {".ci/run"}) - names
    assert not {
        name for name in names if name.startswith(("runs", ".venv", ".git/")) or name.endswith(".pyc")
    }


def test_installed_package_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import zodist; print(zodist.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(installed.parent)
    assert "train" in run(installed / "zodist", "--help", cwd=tmp_path)
    assert run(installed / "python", "-m", "zodist", "--help", cwd=tmp_path)
    methods = json.loads(run(installed / "zodist", "methods", "--json", cwd=tmp_path))
    assert "mezo" in json.dumps(methods)


def test_installed_package_finds_its_data(installed: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.resources as r, tomllib\n"
        "files = [f for f in r.files('zodist.tasks').iterdir() if f.name.endswith('.toml')]\n"
        "[tomllib.loads(f.read_text(encoding='utf-8')) for f in files]\n"
        "print(*sorted(f.name for f in files))"
    )
    found = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert found == sorted(path.name for path in (ROOT / "zodist" / "tasks").glob("*.toml"))
    assert "sst2.toml" in found


def test_every_module_of_the_installed_package_imports(installed: Path, tmp_path: Path) -> None:
    """On a machine without accelerator: kernels for other devices wait until they are asked for."""
    code = (
        "import importlib, pkgutil, zodist\n"
        "names = [module.name for module in pkgutil.walk_packages(zodist.__path__, 'zodist.')]\n"
        "[importlib.import_module(name) for name in names if not name.endswith('.__main__')]\n"
        "print(len(names))"
    )
    assert int(run(installed / "python", "-c", code, cwd=tmp_path)) >= 10


def test_installed_version_is_the_one_in_the_source(installed: Path, tmp_path: Path) -> None:
    code = "from importlib.metadata import version; print(version('zodist'))"
    assert run(installed / "python", "-c", code, cwd=tmp_path).strip() == zodist.__version__
