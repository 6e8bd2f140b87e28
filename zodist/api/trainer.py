"""A run on a model that is in memory: all at once (`fine_tune`), or step by step (`Trainer`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from zodist.api.data import indexed
from zodist.api.module import Loss, LossTask, ModuleParts
from zodist.api.results import Tuned
from zodist.api.settings import OF_DRAWING, OF_LANGUAGE, WHERE, configure, model_settings, name_of
from zodist.config import IN_PYTHON, Config
from zodist.errors import ConfigError, ModelError, TaskError
from zodist.exchange import Begun, Exchange, Together, open_exchange
from zodist.models import load_tokenizer, params
from zodist.objective import Reward, Written, each
from zodist.run import Loaded, MakeParts, Parts, Progress, Session, Taken, load_parts, task_of
from zodist.tasks import Score, Task

Callback = Callable[[Taken], object]
_log = logging.getLogger(__name__)


def fine_tune(
    model: torch.nn.Module,
    task: str | Path | Task | Loss,
    data: Any = None,
    *,
    steps: int,
    lr: float,
    method: str = "mezo",
    batch_size: int | None = None,
    seed: int = 0,
    train: str = "",
    validation: Any = None,
    tokenizer: Any = None,
    reward: Callable[[Written], float] | None = None,
    folder: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    exchange: Exchange | None = None,
    callbacks: Sequence[Callback] = (),
) -> Tuned:
    """Train a model's weights, in place, with forward passes alone.

    callbacks: told every step; if one returns True, the run ends after it.  On several workers all must decide alike.  The
    other arguments are those of Trainer.
    """
    with Trainer(
        model,
        task,
        data,
        steps=steps,
        lr=lr,
        method=method,
        batch_size=batch_size,
        seed=seed,
        train=train,
        validation=validation,
        tokenizer=tokenizer,
        reward=reward,
        folder=folder,
        settings=settings,
        exchange=exchange,
    ) as trainer:
        for taken in trainer:
            if any(
                [callback(taken) is True for callback in callbacks]
            ):  # all are told, whatever the first says
                break
        return trainer.result()


class Trainer:
    """A run that the caller drives: iterate over it, or call `step`; then `result`, and in any case `close`.

    model: transformers' causal language model together with a task, or any module together with a loss function.
    task: the name of a built-in task, the path of a TOML file, a Task; or loss(model, batch), which returns a number or one
    for each example and depends on the weights and the batch alone.
    data, validation: with a loss function: batches, as it takes them, to train on and to evaluate before and after; a
    sequence, or something to iterate over, which is then held as a list.  A number must always give the same batch.
    train: a regular expression of parameter names; "": all, or those that require a gradient, if others do not.
    batch_size: examples of a probe (16); with a loss function, batches of a probe (1).
    tokenizer: for a task by name or file; without it, that of the folder or hub name that the model came from.
    reward: a number for a text that the model wrote, to be made large in place of the likelihood of an answer; for a task of
    kind "prompts" or "generation".  How texts are drawn say settings, as {"objective.temperature": 1.0}.
    folder: where journal, metrics and snapshots go; a folder with a journal is gone on with, from the same base model.
    settings: any other key of a configuration, as "section.key": value.
    exchange: the workers; by default those of torch.distributed if it is initialised, else those of the launcher, if any.

    The model is in eval mode until `close`.  Raises ZodistError, with one sentence, where the caller has to act.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        task: str | Path | Task | Loss,
        data: Any = None,
        *,
        steps: int,
        lr: float,
        method: str = "mezo",
        batch_size: int | None = None,
        seed: int = 0,
        train: str = "",
        validation: Any = None,
        tokenizer: Any = None,
        reward: Callable[[Written], float] | None = None,
        folder: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        given = {
            **model_settings(model, train),
            "run.steps": steps,
            "run.seed": seed,
            "run.threads": torch.get_num_threads(),
            "run.folder": str(folder or "memory"),
            "method.name": method,
            "rule.lr": lr,
            **({} if batch_size is None else {"batch.size": batch_size}),
        }
        judge = None
        if reward is not None:
            name = f"{IN_PYTHON}{getattr(reward, '__qualname__', type(reward).__qualname__)}"
            given |= {"objective.kind": "reward", "objective.function": name}
            judge = each(reward, name)
        if isinstance(task, (str, Path, Task)):
            if data is not None or validation is not None:
                raise ConfigError(
                    f"{WHERE}: a task brings its own data; give data and validation with a loss function"
                )
            without = OF_DRAWING if isinstance(task, Task) else ()
            self.config = configure({**given, **_task_settings(task)}, settings or {}, without)
            make = _language_model(self.config, model, task, tokenizer, judge)
        elif reward is not None:
            raise ConfigError(
                f"{WHERE}: a loss function says itself what is good; give reward with a task whose answers it judges"
            )
        else:
            given |= {"batch.size": batch_size or 1, "batch.packed": False, "batch.probes_per_forward": 1}
            name = f"{IN_PYTHON}{getattr(task, '__qualname__', type(task).__qualname__)}"
            train_data = indexed(data, "data")
            held_out = [] if validation is None else indexed(validation, "validation")
            ranges = range(len(train_data)), range(len(held_out))
            found = LossTask(name, *ranges, (train_data, held_out))
            self.config = configure({**given, "task.name": name}, settings or {}, OF_LANGUAGE)
            make = _module(self.config, model, task, found)
        self.folder = None if folder is None else Path(folder)
        self.history: list[Taken] = []
        self._held = ExitStack()
        try:
            self._begin(model, exchange, make)
        except BaseException:
            self._held.close()
            raise

    def _begin(self, model: torch.nn.Module, exchange: Exchange | None, make: MakeParts) -> None:
        """Meet the others, take up the journal; what is opened or changed here is undone by close."""
        trained = [module for module in model.modules() if module.training]
        self._held.callback(lambda: [setattr(module, "training", True) for module in trained])
        for module in trained:
            module.training = False
        timeout = self.config.exchange.timeout_s
        self.exchange = exchange or self._held.enter_context(closing(_workers(timeout)))
        crew = Together(self.config, self.exchange, (), _log.info, files=self.folder is not None)
        self._held.enter_context(closing(crew))
        self.session = Session(self.config, crew, Progress(self.config.run.steps, show=False), make)
        self._held.callback(self.session.release)
        self.session.begin(self.session.meet())
        self._steps = self.session.steps()
        entries = self.session.entries
        while entries and self.session.replica.step <= entries[-1].step:  # the last of them may lack rounds
            self.step()

    def step(self) -> Taken | None:
        """Take one step; None if there is none left."""
        taken = next(self._steps, None)
        if taken is not None and not taken.replayed:
            self.history.append(taken)
        return taken

    def __iter__(self) -> Iterator[Taken]:
        """The steps that are left; each is taken when it is asked for."""
        while (taken := self.step()) is not None:
            yield taken

    def evaluate(self) -> Score | None:
        """The held-out score of the weights as they are now; None without held-out examples."""
        session = self.session
        if not session.splits[session.final]:
            return None
        return session.evaluation(session.replica.step, session.final)

    def result(self) -> Tuned:
        """What the run has come to, evaluated now if it has not been at this step."""
        session = self.session
        after = self.evaluate()
        return Tuned(
            session.replica.step,
            session.forwards,
            session.scores.get((0, session.final)),
            after,
            session.finish(),
            self.folder,
            self.exchange.sent,
            self.exchange.workers,
            tuple(self.history),
        )

    def close(self) -> None:
        """Give model and files back; further calls do nothing."""
        self._held.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _workers(timeout_s: float) -> Exchange:
    """Those of torch.distributed, if the program has initialised it; else those that a launcher has started."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        from zodist.exchange import TorchExchange

        return TorchExchange(timeout_s, initialised=True)
    return open_exchange("auto", timeout_s)


def _task_settings(task: str | Path | Task) -> dict[str, Any]:
    if not isinstance(task, Task):
        return {"task.name": str(task)}
    counts = {split: len(getattr(task, split)) for split in ("train", "validation", "test")}
    return {"task.name": task.name, **{f"task.{split}": count for split, count in counts.items()}}


def _language_model(
    config: Config, model: Any, task: str | Path | Task, tokenizer: Any, reward: Reward | None
) -> MakeParts:
    """Parts of a causal language model of transformers, for the evaluator that knows its layers."""

    def make(begun: Begun) -> Parts:
        found = task if isinstance(task, Task) else task_of(config, tokenizer or _tokenizer_of(model))
        loaded = Loaded(model, tokenizer, found, params.fingerprint(model))
        return load_parts(config, begun.threads, loaded, begun.header, reward=reward)

    return make


def _module(config: Config, model: torch.nn.Module, loss: Loss, task: LossTask) -> MakeParts:
    """Parts of any module with a loss function."""

    def make(begun: Begun) -> Parts:
        chosen = params.collect(model, config.model.train, master=config.model.master == "float32")
        fingerprint, padding = params.fingerprint(model), "a loss function makes its own batches"
        held = config, model, None, task, chosen, fingerprint, begun.threads > 1, {}, padding
        return ModuleParts(*held, loss=loss)  # type: ignore[arg-type]

    return make


def _tokenizer_of(model: Any) -> Any:
    try:
        return load_tokenizer(name_of(model))
    except ModelError as error:
        raise TaskError(
            f"{WHERE}: a task by name needs the model's tokenizer, which was not found where the model came from ({error}); "
            "pass tokenizer=..."
        ) from error
