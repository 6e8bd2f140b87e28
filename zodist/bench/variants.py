"""What ``zodist bench step`` compares: one model, one batch, and ways to use them that time themselves.

The bare forwards are those of zodist.bench.bare.  Our step is the whole one: evaluation, exchange, a journal on disk,
update.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zodist import noise
from zodist.bench import inplace
from zodist.bench.bare import Bare
from zodist.bench.line import counted
from zodist.bench.rounds import Seconds, seconds
from zodist.config import Rule
from zodist.directions import Param
from zodist.errors import ConfigError
from zodist.evaluator import Evaluator
from zodist.exchange import LocalExchange, Rounds
from zodist.journal import Journal
from zodist.methods import MeZO, MeZOSettings, Probe
from zodist.models import DTYPES, collect, load_model
from zodist.step import RULES, Division, Replica
from zodist.tasks import Batch

EPS, LR, SEED = 1e-3, 1e-7, 1
# Tokens of SST-2 prompts ("{sentence} It was"): 16 quantiles of 10,000 training rows under SmolLM2's tokenizer.
SENTENCES = (4, 5, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 19, 23, 28, 37)


@dataclass(frozen=True)
class Settings:
    """What is measured.  columns: vocabulary entries in the loss, 0: all; wide: probes of a wide update.

    sentences: the rows have the lengths of SENTENCES again and again, and ``tokens`` is not looked at; our step packs
    them, the bare forwards and the in-place step pad them.
    """

    model: str
    noise: str
    batch: int
    tokens: int
    dtype: str
    probes: int
    threads: int
    columns: int
    wide: int
    sentences: bool = False

    def __post_init__(self) -> None:
        for name, known in (("noise", noise.LAWS), ("dtype", DTYPES)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"{name} = {value!r} is not known; choose one of {', '.join(known)}")
        for name in ("batch", "tokens", "probes", "threads", "wide"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be >= 1")
        if self.columns < 0 or self.columns == 1:
            raise ConfigError(f"columns = {self.columns} must be 0 (the whole vocabulary) or >= 2")

    def __str__(self) -> str:
        """The settings for people, as a line's ``setting``."""
        counts = f"{counted(self.probes, 'probe')}, {counted(self.threads, 'thread')}"
        return f"{Path(self.model).name}, {self.dtype}, {self.noise}, {self._shape} tokens, {counts}"

    @property
    def case(self) -> str:
        """What tells apart the steps of one report."""
        return f"{self.noise}, {self._shape}"

    @property
    def _shape(self) -> str:
        lengths = self.lengths
        return (
            f"{self.batch} x {lengths[0] if len(set(lengths)) == 1 else f'{min(lengths)} to {max(lengths)}'}"
        )

    @property
    def lengths(self) -> list[int]:
        """Tokens of every row of the first batch."""
        return self.lengths_of(0)

    def lengths_of(self, batch: int) -> list[int]:
        """Tokens of every row of one of several batches."""
        rows = range(batch * self.batch, (batch + 1) * self.batch)
        return [SENTENCES[r % len(SENTENCES)] if self.sentences else self.tokens for r in rows]

    def plain(self) -> dict[str, Any]:
        """The settings as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class RandomBatch(Batch):
    """Random tokens, padded on the left; the loss is the cross-entropy of one entry at the last position."""

    answers: Tensor

    @classmethod
    def of(cls, settings: Settings, vocabulary: int, number: int = 0) -> RandomBatch:
        """Tokens, answers and columns at addresses of zodist's own noise; another number: other tokens and sentences."""
        if settings.columns > vocabulary:
            raise ConfigError(f"columns = {settings.columns} must be at most the vocabulary, {vocabulary}")
        rows, lengths = settings.batch, settings.lengths_of(number)
        length = max(lengths)
        drawn = noise.words(SEED, number, noise.ORDER, np.arange(rows * length))[:, 0].astype(np.int64)
        ids = torch.from_numpy(drawn % vocabulary).view(rows, length)
        mask = (torch.arange(length) >= length - torch.tensor(lengths)[:, None]).long()
        columns = torch.from_numpy(noise.permutation(SEED, vocabulary)[: settings.columns].copy())
        return cls(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            keep=1,
            columns=columns if settings.columns else None,
            examples=rows,
            labels=None,
            answers=torch.arange(rows) % (settings.columns or vocabulary),
        )

    def losses(self, logits: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, -1].float(), self.answers, reduction="none")

    def scores(self, logits: Tensor) -> None:
        return None


def load(settings: Settings) -> Any:
    """The model of the settings."""
    return load_model(settings.model, DTYPES[settings.dtype], "sdpa")[0]


class Bench:
    """One model, one batch, and the variants: each method of VARIANTS runs once and returns seconds by name."""

    VARIANTS = ("products", "bare_forwards", "bare_forwards_all_logits", "step", "inplace_step", "updates")

    def __init__(self, model: Any, settings: Settings, params: Sequence[Param] = ()) -> None:
        """params: the model's, if not as ``collect`` gives them."""
        self.settings = settings
        self.batch = RandomBatch.of(settings, model.get_input_embeddings().weight.shape[0])
        self.params = list(params) or collect(model)
        self.weights = list(model.parameters())
        self.bare = Bare(model, self.batch)
        self.parallel = settings.threads > 1
        self.method = self._method(settings.probes)
        self.evaluator = Evaluator(
            model, self.params, self.method.direction, parallel=self.parallel, packed=settings.sentences
        )
        self._folder = tempfile.TemporaryDirectory(prefix="zodist-bench-")
        self.journal = Journal.create(Path(self._folder.name) / "journal.jsonl", {"bench": settings.plain()})
        self.rounds = Rounds(LocalExchange(), self.journal)
        self.division = Division(SEED, data_lanes=1, batch=settings.batch, examples=settings.batch)
        self.replica = self._replica(self.method)
        self.one, self.wide = (self._replica(self._method(n)) for n in (1, settings.wide))
        self._inplace_steps = 0

    def close(self) -> None:
        """Give the model back and remove the journal."""
        self.evaluator.close()
        self.journal.close()
        self._folder.cleanup()

    def run(self, variant: str) -> Seconds:
        """One run of one variant."""
        return getattr(self, variant)()

    def products(self) -> Seconds:
        """Bare products of the largest layer."""
        return {"products": seconds(self.bare.multiply)}

    def bare_forwards(self) -> Seconds:
        """Two forwards per probe of the untouched model, with exactly the logits of the loss."""
        return {"bare_forwards": seconds(lambda: self._forwards(self.bare.few_logits))}

    def bare_forwards_all_logits(self) -> Seconds:
        """The same with the logits of every position and every vocabulary entry."""
        return {"bare_forwards_all_logits": seconds(lambda: self._forwards(self.bare.all_logits))}

    def step(self) -> Seconds:
        """A training step: ``evaluate`` is the answer to the method's question, ``update`` the rest."""
        answered = 0.0

        def answer(step: int, round: int, lr: float, probes: tuple[Probe, ...], lanes: int) -> np.ndarray:
            nonlocal answered
            start = perf_counter()
            asked = self.division.asked(step, round, lr, probes, lanes)
            values = self.rounds.round(asked, lambda group: self._losses(asked.share(group).probes))
            answered = perf_counter() - start
            return values

        whole = seconds(lambda: self.replica.advance(answer))
        return {"step": whole, "evaluate": answered, "update": whole - answered}

    def inplace_step(self) -> Seconds:
        """The reference: one step per probe, one after the other, as its probes cannot share a pass."""
        return {"inplace_step": seconds(self._inplace)}

    def updates(self) -> Seconds:
        """The update alone with one probe and with many, from given losses."""
        return {
            "update_one": seconds(lambda: self.one.advance(_given)),
            "update_wide": seconds(lambda: self.wide.advance(_given)),
        }

    def _method(self, probes: int) -> MeZO:
        return MeZO(MeZOSettings.model_validate({"probes": probes, "eps": EPS, "noise": self.settings.noise}))

    def _replica(self, method: MeZO) -> Replica:
        rule = RULES["sgd"](Rule(lr=LR), self.params, parallel=self.parallel)
        return Replica(self.params, method, rule, seed=SEED, steps=1, data_lanes=1)

    def _losses(self, probes: Sequence[Probe]) -> np.ndarray:
        batches = [[self.batch]] * len(probes)
        return self.evaluator.group_losses([probe.points for probe in probes], batches)

    def _inplace(self) -> None:
        for _ in range(self.settings.probes):
            self._inplace_steps += 1
            inplace.step_(self.weights, self.bare.all_logits, seed=self._inplace_steps, eps=EPS, lr=LR)

    def _forwards(self, forward: Callable[[], float]) -> None:
        for _ in range(2 * self.settings.probes):
            forward()


def _given(step: int, round: int, lr: float, probes: tuple[Probe, ...], lanes: int) -> np.ndarray:
    """Losses that nobody measured: unequal slopes, small ones."""
    slopes = np.arange(len(probes), dtype=np.float32) % 7 - 3.5
    return np.stack([slopes * np.float32(1e-4), np.ones(len(probes), np.float32)], axis=1)
