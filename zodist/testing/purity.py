"""A step is a function of (state, losses): no other instance, clock, stream, environment or module of the run enters."""

from __future__ import annotations

import ast
import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from zodist.methods import Method
from zodist.testing.subject import Subject
from zodist.testing.toys import Stage, made_up, stage, state_bits

STEPS = 5
CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")
# Modules through which something could enter that is not in the journal.
FORBIDDEN = (
    *("torch.distributed", "mpi4py", "socket", "random", "numpy.random", "secrets", "uuid"),
    *("time", "datetime", "os", "pathlib"),
    *(f"zodist.{name}" for name in ("exchange", "journal", "journal_format", "snapshot", "tasks", "lanes")),
    *(f"zodist.{name}" for name in ("forward", "model", "step", "train", "replay", "config")),
)
STREAMS = {"numpy.random", "torch.random", "torch.manual_seed", "torch.Generator"} | {
    f"torch.{name}" for name in ("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "normal")
}


def equal_losses_give_equal_steps(chosen: Subject) -> None:
    """The same losses give the same steps, whatever other instances of the method did in between."""
    for variant in chosen.variants("coupling"):
        alone = stage(chosen, **variant)
        wanted = [alone.take_made_up(step).bits() for step in range(STEPS)]
        again, other = stage(chosen, **variant), stage(chosen, **variant)
        for step in range(STEPS):
            other.take(step, lambda round, probes, t=step: made_up(t + 100, round, probes) * 2.0)
            if again.take_made_up(step).bits() != wanted[step]:
                raise AssertionError(
                    f"step {step} differs from the same step of an instance that ran alone ({variant or 'defaults'}); "
                    "keep all state in self, and none in the class or the module"
                )
        if state_bits(again.method) != state_bits(alone.method):
            raise AssertionError("the same steps end in another state; keep all state in self")


def nothing_from_outside_enters(chosen: Subject) -> None:
    """Another time, other random streams and another environment change no bit, and no stream is drawn from."""
    quiet = _bits(stage(chosen), lambda step: None)
    before = _streams()
    if _bits(stage(chosen), lambda step: None) != quiet:
        raise AssertionError(
            "two runs with the same losses differ: something random or timed enters the step"
        )
    for name, state in _streams().items():
        if state != before[name]:
            raise AssertionError(
                f"a step changed the random stream of {name}; take numbers from zodist.noise by seed"
            )
    with _elsewhere():
        if _bits(stage(chosen), _stir) != quiet:
            raise AssertionError(
                "the step depends on a clock, a random stream or the environment: a replay could not repeat it"
            )


def module_imports_nothing_of_the_run(chosen: Subject) -> None:
    """The files of the class and of its ancestors import no network, file, clock, stream or task."""
    for kind in chosen.kind.__mro__:
        if issubclass(kind, Method) and kind is not Method:
            source = inspect.getsourcefile(kind)
            if source is not None:
                path = Path(source)
                _check_imports(kind.__module__, ast.parse(path.read_text(encoding="utf-8")), path.name)


def _check_imports(module: str, tree: ast.Module, file: str) -> None:
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        found: list[str] = []
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom):
            package = module.rsplit(".", node.level)[0] if node.level else ""
            origin = ".".join(part for part in (package, node.module) if part)
            found = [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        for name in found:
            inside = [f for f in FORBIDDEN if name == f or name.startswith(f + ".")]
            if inside:
                raise AssertionError(
                    f"{file}:{line} imports {name}; a method sees its settings, its state, seeds and losses only"
                )
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            full = f"{names.get(node.value.id, node.value.id)}.{node.attr}"
            if full in STREAMS:
                raise AssertionError(
                    f"{file}:{node.lineno} uses {full}; take numbers from zodist.noise by seed"
                )


def _bits(on: Stage, before: Callable[[int], None]) -> list[bytes]:
    """Some steps and the last state as bytes; before: what happens ahead of every answer."""
    made = []
    for step in range(STEPS):

        def losses(round, probes, step=step):
            before(64 * step + round)
            return made_up(step, round, probes)

        made.append(on.take(step, losses).bits())
    return [*made, *state_bits(on.method).values()]


def _streams() -> dict[str, bytes]:
    """The states of the global random streams, looked up by name: nothing here draws from them."""
    torch_state = import_module("torch.random").get_rng_state().numpy().tobytes()
    return {
        "random": repr(import_module("random").getstate()).encode(),
        "numpy": repr(import_module("numpy.random").get_state()).encode(),
        "torch": torch_state,
    }


def _stir(moment: int) -> None:
    """Move every stream on, and be another worker."""
    import_module("random").random()
    import_module("numpy.random").rand()
    import_module("torch").rand(1)
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(moment % 7)


@contextmanager
def _elsewhere() -> Iterator[None]:
    """Another time and another place among workers; streams and environment are put back afterwards."""
    streams = [import_module(name) for name in ("random", "numpy.random", "torch.random")]
    states = [streams[0].getstate(), streams[1].get_state(), streams[2].get_rng_state()]
    kept = {name: getattr(time, name) for name in CLOCKS}
    environment = dict(os.environ)
    try:
        for name, clock in kept.items():
            later = 10**15 if name.endswith("_ns") else 10**6
            setattr(time, name, lambda clock=clock, later=later: clock() + later)
        os.environ["WORLD_SIZE"] = "7"
        yield
    finally:
        for name, clock in kept.items():
            setattr(time, name, clock)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        streams[0].setstate(states[0])
        streams[1].set_state(states[1])
        streams[2].set_rng_state(states[2])
