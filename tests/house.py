"""The rooms of the package as a reader of its source finds them: who stands before whom, and who imports what of whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "zodist"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# A room may know those before it, and none after it.
ORDER = (
    *("errors", "noise", "kernels", "directions", "methods", "step", "config", "journal"),
    *("models", "tasks", "evaluator", "adapter", "objective", "report"),
    *("exchange", "shard", "elastic", "run"),
    *("share", "compare", "bench", "plan", "scale", "testing", "api", "__main__"),
)
# Who asks for a whole session; everything else is a part of one, and can be replayed and tested alone.
KNOWS_RUN = {"api", "bench", "compare", "share", "__main__"}


class Import(NamedTuple):
    """A line of a file: the room that it names, the module inside the room ("" for the room itself), and the names."""

    line: int
    room: str
    inside: str
    names: tuple[str, ...]


def name_of(path: Path) -> str:
    """The dotted module name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}
ROOMS = tuple(room for room in ORDER if (PACKAGE / room).is_dir())


@cache
def tree(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def room_of(path: Path) -> str:
    """The room that a file of the package, or its tests, belongs to; "" for what lies at the top of tests/."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "zodist" or len(parts) > 2 else ""


def sentence(room: str) -> str:
    """What a room says of itself: the first line of its ``__init__.py``, or of the file that it is."""
    path = PACKAGE / room / "__init__.py" if room in ROOMS else PACKAGE / f"{room}.py"
    return (ast.get_docstring(tree(path)) or "").partition("\n")[0]


@cache
def imports(path: Path) -> frozenset[str]:
    """Every name that a file imports, at any depth: modules and, for `from a import b`, also a.b."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def of_rooms(path: Path) -> Iterator[Import]:
    """What a file imports of the package, for types alone too, line by line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "zodist":
            _, room, inside = [*(node.module or "").split(".", 2), "", ""][:3]
            names = tuple(alias.name for alias in node.names)
            if room:
                yield Import(node.lineno, room, inside, names)
            else:
                yield from (Import(node.lineno, name, "", ()) for name in names if name in ORDER)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("zodist."):
                    _, room, inside = [*alias.name.split(".", 2), ""][:3]
                    yield Import(node.lineno, room, inside, ())


def handed_on(room: str) -> dict[str, str]:
    """The names that others may use, and the module of the room that each comes from; "" for a module itself."""
    stub = ast.parse((PACKAGE / room / "__init__.pyi").read_text(encoding="utf-8"))
    lines = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in lines for alias in node.names}


def known(room: str) -> set[str]:
    """The rooms whose names a room uses."""
    files = [path for path in SOURCES if room_of(path) == room]
    return {found.room for path in files for found in of_rooms(path)} - {room}
