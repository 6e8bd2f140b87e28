"""House rules that a linter does not know: who imports whom, no streams, no pickle, names, sizes, scripts."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import (
    KNOWS_RUN,
    MODULES,
    ORDER,
    ROOMS,
    ROOT,
    SOURCES,
    TESTS,
    handed_on,
    imports,
    known,
    name_of,
    of_rooms,
    room_of,
    sentence,
    tree,
)

CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
ENTRIES = sorted((ROOT / "configs" / "methods").glob("*.toml"))  # of `zodist compare`
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), *ROOT.glob("slurm/*.sbatch"), ROOT / ".ci" / "run"])

MAX_LINES = 350
DRAWERS = {"util", "utils", "common", "helper", "helpers", "base", "manager", "managers", "misc"}
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "numba",
    "pandas",
    "pyarrow",
    "matplotlib",
    "deepspeed",
    "mpi4py",
)


def within(name: str, *packages: str) -> bool:
    """Is `name` one of the modules, or inside one?"""
    return any(name == package or name.startswith(package + ".") for package in packages)


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    for found in of_rooms(path) if room != "__init__" else ():
        if found.room != room:
            why = f"{short(path)}:{found.line} imports zodist.{found.room}"
            assert ORDER.index(found.room) < ORDER.index(room), (
                f"{why}, which stands after its own room; zodist.{room} is: {rule(room)}"
            )


def rule(room: str) -> str:
    """What a room is, for messages."""
    return sentence(room) if room in ROOMS else room


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=short)
def test_a_room_is_entered_by_its_door(path: Path) -> None:
    """What others may use is in the room's __init__; only its own files and tests look behind that."""
    for found in of_rooms(path):
        if found.room in ROOMS and room_of(path) != found.room:
            place = f"{short(path)}:{found.line}"
            assert not found.inside, (
                f"{place} imports past zodist.{found.room} ({rule(found.room)}): take it from zodist.{found.room}, and "
                f"name it in zodist/{found.room}/__init__.pyi"
            )
            unknown = set(found.names) - set(handed_on(found.room))
            assert not unknown, f"{place}: zodist.{found.room} does not hand on {sorted(unknown)}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_hands_on_what_it_has(room: str) -> None:
    for name, inside in handed_on(room).items():
        path = MODULES.get(f"zodist.{room}.{inside or name}")
        assert path is not None, f"zodist.{room} hands on {name} of {inside}, which it does not have"
        own = {
            node.name for node in ast.walk(tree(path)) if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        }
        own |= {node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name)}
        assert not inside or name in own, f"zodist.{room}.{inside} does not define {name}"
        # The import system would put the module in its place, and a file of the room would get the one or the other.
        assert inside in ("", name) or f"zodist.{room}.{name}" not in MODULES, f"{name} is a module of {room}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_a_sentence_and_its_tests_a_room(room: str) -> None:
    assert sentence(room).endswith((".", ":", ";")), (
        f"zodist/{room}/__init__.py does not open with a sentence"
    )
    assert any(room_of(path) == room for path in TESTS), (
        f"there are no tests of zodist.{room} in tests/{room}"
    )


def test_every_part_of_the_package_and_of_the_tests_is_a_room() -> None:
    parts = {room_of(path) for path in SOURCES} - {"__init__"}
    assert parts == set(ORDER), "tests/house.py lists the rooms"
    assert {room_of(path) for path in TESTS} <= {"", *ROOMS}


def test_only_what_people_do_with_a_run_knows_run() -> None:
    assert {room for room in ROOMS if "run" in known(room)} | {"__main__"} == KNOWS_RUN


def test_the_evaluator_knows_of_methods_only_what_a_probe_is() -> None:
    taken = {
        name
        for path in SOURCES
        if room_of(path) == "evaluator"
        for found in of_rooms(path)
        for name in found.names
        if found.room == "methods"
    }
    assert taken == {"Probe"}


def test_a_method_knows_no_network() -> None:
    below = ORDER[: ORDER.index("methods") + 1]
    for path in (path for path in SOURCES if room_of(path) in below):
        networks = {
            name for name in imports(path) if within(name, "torch.distributed", "mpi4py", "deepspeed")
        }
        assert not networks, f"{short(path)} imports {sorted(networks)}"


@pytest.mark.parametrize(
    "statement",
    [
        "import zodist",
        "import zodist.__main__",
        "import zodist.__main__ as m\nsys.argv[1:] = ['--help']\ntry: m.main()\nexcept SystemExit: pass",
    ],
    ids=["import zodist", "import zodist.__main__", "zodist --help"],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    code = f"import sys\n{statement}\nprint(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


# Names of torch and numpy that draw from a stream; a trailing underscore marks a method of a tensor.
STREAMS = {
    *(
        "manual_seed",
        "seed",
        "initial_seed",
        "get_rng_state",
        "set_rng_state",
        "default_generator",
        "Generator",
    ),
    *(
        "rand",
        "randn",
        "randint",
        "randperm",
        "rand_like",
        "randn_like",
        "randint_like",
        "normal",
        "bernoulli",
    ),
    *("multinomial", "poisson", "dropout"),
}
STREAM_METHODS = {"normal_", "uniform_", "bernoulli_", "exponential_", "random_", "cauchy_", "log_normal_"}


def dotted(node: ast.expr) -> str:
    """`a.b.c` for an attribute of a plain name, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def attributes(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, last name and full dotted name (with import aliases resolved) of each attribute in a file."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            aliases.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and not node.level:
            aliases.update(
                {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            )
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            head, _, rest = dotted(node).partition(".")
            yield node.lineno, node.attr, f"{aliases.get(head, head)}.{rest}"


@pytest.mark.parametrize("path", [p for p in SOURCES if not within(name_of(p), "zodist.bench")], ids=short)
def test_no_number_comes_from_a_stream(path: Path) -> None:
    streams = {name for name in imports(path) if within(name, "random", "numpy.random", "secrets")}
    streams |= {
        name for name in imports(path) if name.startswith("torch.") and name.split(".")[-1] in STREAMS
    }
    assert not streams, f"{short(path)} imports {sorted(streams)}"
    for line, last, full in attributes(path):
        drawn = last in STREAM_METHODS or last == "manual_seed" or within(full, "numpy.random", "random")
        drawn = drawn or (within(full, "torch") and last in STREAMS)
        assert not drawn, f"{short(path)}:{line}: {full or last} draws from a stream; use zodist.noise"


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_nothing_is_pickled(path: Path) -> None:
    """Files and messages are data, never code; the *_object collectives of torch pickle as well.

    torch's own reader of its old checkpoints takes tensors alone where it is told to.
    """
    pickles = {
        name
        for name in imports(path)
        if within(name, "pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
    }
    assert not pickles, f"{short(path)} imports {sorted(pickles)}"
    for line, last, full in attributes(path):
        pickled = full in {"torch.load", "torch.save"} or last.endswith(("gather_object", "object_list"))
        pickled = (
            pickled and "weights_only=True" not in path.read_text(encoding="utf-8").splitlines()[line - 1]
        )
        assert not pickled, f"{short(path)}:{line}: {full} pickles"


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=short)
def test_a_file_is_one_named_idea(path: Path) -> None:
    names = path.relative_to(ROOT).with_suffix("").parts
    assert not DRAWERS & set(names), f"{short(path)} is named like a drawer"
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{short(path)} has {lines} lines, more than {MAX_LINES}"


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_only_the_command_line_prints(path: Path) -> None:
    allowed = name_of(path) in {"zodist.__main__", "zodist.run.train"}
    for node in ast.walk(tree(path)):
        printing = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        assert allowed or not printing, f"{short(path)}:{getattr(node, 'lineno', 0)} prints"


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_a_file_says_first_what_it_does(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text or ast.get_docstring(tree(path)), f"{short(path)} has no module docstring"


@pytest.mark.parametrize("path", CONFIGS, ids=short)
def test_every_config_loads(path: Path) -> None:
    from zodist.config import load

    assert load(path, []).run.steps >= 1


@pytest.mark.parametrize("path", ENTRIES, ids=short)
def test_every_entry_of_a_comparison_loads(path: Path) -> None:
    from zodist.compare import make_plan

    plan = make_plan(CONFIGS[-1], [path.stem], budget=10_000, seeds=1, out=ROOT, threads=1)
    assert path.stem in {entry.name for entry in plan.entries}


@pytest.mark.parametrize("path", SCRIPTS, ids=short)
def test_scripts_are_sound_bash(path: Path) -> None:
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first in {"#!/usr/bin/env bash", "#!/bin/bash"}, f"{short(path)} starts with {first!r}"
    subprocess.run(["bash", "-n", str(path)], check=True)
    shellcheck = shutil.which("shellcheck") or shutil.which(
        "shellcheck", path=str(Path(sys.executable).parent)
    )
    if shellcheck:
        done = subprocess.run([shellcheck, "-x", str(path)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_constraints_name_only_declared_or_needed_packages_once() -> None:
    lines = (ROOT / "launch" / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    names = [pin.partition("==")[0] for pin in pins]
    assert all(pin.count("==") == 1 for pin in pins)
    assert len(names) == len(set(names))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        assert requirement.partition(">=")[0] in names, f"launch/constraints.txt does not pin {requirement}"
