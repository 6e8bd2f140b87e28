"""Rewards from a function or a command, and how these fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from zodist.config import Objective
from zodist.errors import ObjectiveError
from zodist.objective.command import Command
from zodist.objective.reward import Written, reward_of

PROGRAM = """
import json, sys
for line in sys.stdin:
    print(json.loads(line)["answer"].count("very"))
"""
REWARD = """
def broken(written):
    raise RuntimeError("out of order")
def words(written):
    return "many"
"""

ANSWERS = [Written("it was", answer) for answer in ("very very", "good", "very")]


def program(tmp_path: Path, text: str, timeout_s: float = 60.0) -> Command:
    (tmp_path / "score.py").write_text(text)
    return Command([sys.executable, str(tmp_path / "score.py")], timeout_s)


def test_a_command_is_asked_again_and_again(tmp_path):
    judge = program(tmp_path, PROGRAM)
    assert judge(ANSWERS) == [2.0, 0.0, 1.0] and judge(ANSWERS[::-1]) == [1.0, 0.0, 2.0]
    many = [Written("x" * 1000, "very " * n) for n in range(300)]  # more than a pipe holds
    assert judge(many) == list(range(300))


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("import sys; sys.exit(3)", r"ended \(exit status 3\) after 0 numbers for 3 answers"),
        ("input(); print(1.5)", r"ended \(exit status 0\) after 1 numbers for 3 answers"),
        ("input(); print('nan'); input()", r"printed 'nan'; it must print one finite number a line"),
        (
            "input(); print('good morning'); input()",
            r"printed 'good morning'; it must print one finite number",
        ),
    ],
)
def test_a_command_that_fails_is_one_sentence(tmp_path, text, sentence):
    with pytest.raises(ObjectiveError, match=sentence):
        program(tmp_path, text)(ANSWERS)


def test_a_command_that_keeps_silent_or_does_not_exist_is_one_sentence(tmp_path):
    with pytest.raises(
        ObjectiveError, match=r"gave 0 numbers for 3 answers and nothing more in 0.5 s; it must print"
    ):
        program(tmp_path, "import sys; sys.stdin.read()", timeout_s=0.5)(ANSWERS)
    with pytest.raises(ObjectiveError, match="'no-such-program' cannot be started"):
        Command(["no-such-program"], 1.0)(ANSWERS)


@pytest.mark.parametrize(
    "function, sentence",
    [
        ("reward.py:broken", r"raised RuntimeError: out of order on the answer 'very very'"),
        ("reward.py:words", r"returned 'many' for the answer 'very very'; return a finite number"),
        ("reward.py:absent", r"has no function 'absent'; correct the name"),
        ("absent.py:very", r"there is no file absent.py; correct the path"),
        ("no.such.package:score", r"the module no.such.package cannot be imported"),
    ],
)
def test_a_function_that_fails_is_one_sentence(tmp_path, monkeypatch, function, sentence):
    (tmp_path / "reward.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ObjectiveError, match=sentence):
        reward_of(Objective(kind="reward", function=function), 1.0)(ANSWERS)


def test_an_entry_point_of_a_package_is_a_reward():
    found = reward_of(Objective(kind="reward", function="math:sqrt"), 1.0)
    with pytest.raises(ObjectiveError, match="raised TypeError"):
        found(ANSWERS)
    assert reward_of(Objective(kind="reward", function="builtins:bool"), 1.0)(ANSWERS) == [1.0] * 3
