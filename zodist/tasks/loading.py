"""Read, draw and tokenise the data of a task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zodist.errors import TaskError
from zodist.noise import permutation
from zodist.tasks import chat, choice, classification, generation, prompts_only, text
from zodist.tasks.description import Description
from zodist.tasks.source import Drawn, Rows, read
from zodist.tasks.task import Task
from zodist.tasks.task_file import describe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUILDERS: dict[str, Any] = {
    "classification": classification.build,
    "choice": choice.build,
    "generation": generation.build,
    "prompts": prompts_only.build,
    "chat": chat.build,
    "text": text.build,
}


def load_task(
    name_or_path: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    files: Mapping[str, str | Path],
    train: int | None,
    validation: int | None,
    test: int | None,
    seed: int,
    max_tokens: int | None,
) -> Task:
    """The task with its examples drawn and tokenised.

    name_or_path: a built-in task, or the path of a TOML file.
    files: split ("train", "validation") -> data file, in place of the task's own source; empty to use that.
    train, validation, test: how many examples to draw; seed: of the draw, see `draw`.
    max_tokens: the length of the longest row, option included.  None, here and before: as the task's [defaults] say.
    Raises TaskError for anything wrong with the description or the data.
    """
    description = describe(name_or_path)
    own = description.defaults
    splits, warnings = draw(
        description,
        files,
        train=own.train if train is None else train,
        validation=own.validation if validation is None else validation,
        test=own.test if test is None else test,
        seed=seed,
    )
    longest = own.max_tokens if max_tokens is None else max_tokens
    return BUILDERS[description.kind](description, splits, tokenizer, longest, warnings)


def draw(
    description: Description,
    files: Mapping[str, str | Path],
    *,
    train: int,
    validation: int,
    test: int,
    seed: int,
) -> tuple[dict[str, Drawn], list[str]]:
    """The rows of train, validation and test, and a warning if fewer train than asked for.

    MeZO's protocol (arXiv:2305.17333, appendix E.1): the training split in the order of the seed; of its
    first train + validation rows the last `validation` are for validation. The test set is the first `test`
    rows of the validation split, in the order of the same seed; that split is not read when test is 0.
    """
    rows = read(description, files, "train", train + validation)
    order = _order(rows, seed)[: train + validation]
    if validation >= len(order) or train < 1:
        raise TaskError(
            f"{rows.origin} holds {len(rows.records)} rows, and none is left to train on with "
            f"task.train = {train} and task.validation = {validation}; lower the latter or give more data"
        )
    cut = len(order) - validation
    splits = {"train": Drawn(rows, order[:cut]), "validation": Drawn(rows, order[cut:])}
    warnings = []
    if cut < train:
        warnings.append(
            f"{rows.origin} holds {len(rows.records)} rows: {cut} train instead of task.train = {train}"
        )
    if test:
        rows = read(description, files, "validation", test)
        order = _order(rows, seed)
    splits["test"] = Drawn(rows, order[:test] if test else ())
    return splits, warnings


def _order(rows: Rows, seed: int) -> tuple[int, ...]:
    return tuple(permutation(seed, len(rows.records)).tolist())
