"""House rules that a linter does not know: who imports whom, no streams, no pickle, names, sizes, scripts."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "zodist"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
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
# What joins the pieces. A piece that knew one of these could not be replayed or tested alone.
JOINTS = {"step", "train", "replay", "evaluate", "report", "bench", "compare", "__main__"}
PIECES = (
    "noise kernels params direction methods forward exchange records journal snapshot rules tasks model "
    "config shard score"
).split()


def name_of(path: Path) -> str:
    """The dotted module name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports(path: Path) -> frozenset[str]:
    """Every name that a file imports, at any depth: modules and, for `from a import b`, also a.b."""
    package = name_of(path).split(".")[: None if path.name == "__init__.py" else -1]
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def ours(path: Path) -> set[str]:
    """The modules of zodist that a file imports, without the package itself."""
    return {name for name in imports(path) if name in MODULES and name != "zodist"}


def reachable(start: str) -> set[str]:
    """The modules of zodist that come along when `start` is imported."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(ours(MODULES[name]))
    return seen


def within(name: str, *packages: str) -> bool:
    """Is `name` one of the modules, or inside one?"""
    return any(name == package or name.startswith(package + ".") for package in packages)


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def modules_in(*pieces: str) -> list[str]:
    return [name for name in MODULES if within(name, *(f"zodist.{piece}" for piece in pieces))]


def test_noise_imports_nothing_of_ours() -> None:
    assert not ours(PACKAGE / "noise.py")


@pytest.mark.parametrize("module", modules_in("methods"))
def test_a_method_knows_no_network_file_format_model_or_task(module: str) -> None:
    forbidden = [
        f"zodist.{name}" for name in ("exchange", "journal", "snapshot", "tasks", "model", "forward")
    ]
    reached = {name for name in reachable(module) if within(name, *forbidden)}
    assert not reached, f"{module} reaches {sorted(reached)}"
    networks = {
        name
        for other in reachable(module)
        for name in imports(MODULES[other])
        if within(name, "torch.distributed", "mpi4py", "deepspeed")
    }
    assert not networks, f"{module} reaches {sorted(networks)}"


@pytest.mark.parametrize("module", modules_in(*PIECES))
def test_no_piece_knows_what_joins_the_pieces(module: str) -> None:
    joints = {name for name in reachable(module) if within(name, *(f"zodist.{joint}" for joint in JOINTS))}
    assert not joints, f"{module} reaches {sorted(joints)}"


def test_imports_point_up_the_list() -> None:
    """Noise, params, direction, methods: each may import only what stands before it."""
    order = ["noise", "params", "direction", "methods"]
    for position, piece in enumerate(order):
        later = [f"zodist.{name}" for name in order[position + 1 :]]
        for module in modules_in(piece):
            wrong = {name for name in ours(MODULES[module]) if within(name, *later)}
            assert not wrong, f"{module} imports {sorted(wrong)}"


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
