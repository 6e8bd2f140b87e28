"""What a person sees while a run works: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from zodist.methods import Outcome
from zodist.report import amount
from zodist.tasks import Score

EVERY_S = 10.0  # seconds between plain lines


class Progress:
    """Shows step, loss, slope, accuracy, bytes, speed and time left; nothing when ``show`` is false."""

    def __init__(self, steps: int, *, show: bool) -> None:
        self.show, self.steps = show, steps
        self.console = Console(file=sys.stderr, highlight=False)
        self.live = show and self.console.is_terminal
        self.bar: Bar | None = None
        self._accuracy = ""
        self._last = 0.0
        self._mean: float | None = None
        self._marks: list[tuple[float, int]] = []

    def say(self, text: str) -> None:
        """One line for the person in front of the screen."""
        if self.show:
            (self.bar.console if self.bar else self.console).print(text, markup=False, soft_wrap=True)

    def step(self, t: int, outcome: Outcome, sent: int, replaying: bool) -> None:
        """Step t (counted from 1) is done."""
        if not self.show:
            return
        now = time.monotonic()
        # A step's loss is that of a few examples: show a running mean.
        self._mean = outcome.loss if self._mean is None else 0.95 * self._mean + 0.05 * outcome.loss
        self._marks = [*self._marks[-50:], (now, t)]
        began, first = self._marks[0]
        rate = (t - first) / (now - began) if t > first else 0.0
        word = "replaying" if replaying else "training"
        figures = f"loss {self._mean:.3f}  slope {outcome.slope:7.2f}  {self._accuracy}sent {amount(sent)}"
        figures += f"  {rate:.2f} steps/s"
        if self.live:
            if self.bar is None:
                columns = (
                    TextColumn("{task.description}"),
                    BarColumn(bar_width=20),
                    TextColumn("{task.completed}/{task.total}"),
                )
                self.bar = Bar(
                    *columns,
                    TextColumn("{task.fields[figures]}"),
                    TimeRemainingColumn(),
                    console=self.console,
                )
                self._task = self.bar.add_task(word, total=self.steps, completed=t, figures=figures)
                self.bar.start()
            self.bar.update(self._task, description=word, completed=t, figures=figures)
        elif now - self._last > EVERY_S or t == self.steps:
            self._last = now
            left = f"{(self.steps - t) / rate:.0f} s left" if rate else ""
            self.say(f"{word} {t}/{self.steps}  {figures}  {left}")

    def evaluation(self, t: int, split: str, score: Score) -> None:
        """An evaluation after step t."""
        if score.accuracy is not None:
            self._accuracy = f"accuracy {score.accuracy:.1%}  "
        self.say(f"step {t:5d}  {split}: {sentence(score)}")

    def close(self) -> None:
        """Give the screen back."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def sentence(score: Score) -> str:
    """A score in words, with standard errors."""
    parts = []
    if score.reward is not None:
        parts.append(f"reward {score.reward:.4f} ± {score.reward_error:.4f}")
    if score.exact is not None:
        parts.append(f"exact {score.exact:.1%} ± {score.exact_error:.1%}")
    if score.accuracy is not None:
        parts.append(f"accuracy {score.accuracy:.1%} ± {score.accuracy_error:.1%}")
    if score.calibrated is not None:
        parts.append(f"calibrated {score.calibrated:.1%}")
    if score.by_sum is not None:
        parts.append(f"by sum {score.by_sum:.1%}")
    if score.f1 is not None:
        parts.append(f"F1 {score.f1:.1%} ± {score.f1_error:.1%}")
    parts.append(f"loss {score.loss:.4f} ± {score.loss_error:.4f}")
    majority = "" if score.majority is None else f", majority {score.majority:.1%}"
    return f"{', '.join(parts)} ({score.examples} examples{majority})"
