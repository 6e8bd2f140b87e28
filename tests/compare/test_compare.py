"""Comparisons of real tiny runs: equal forwards, honest tuning, the bits of train, killed and taken up again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import Place, make_place, wait_for

from zodist import noise
from zodist.compare.outcome import Outcome as Compared
from zodist.compare.outcome import compare
from zodist.config import load
from zodist.directions import Combination, Dense, Law, Param
from zodist.errors import ConfigError, JournalError
from zodist.journal import read_lines
from zodist.methods import METHODS, Method, MethodEntry, Outcome, Probe, Settings, Step, StepSeeds, registry
from zodist.run import replay, train

BUDGET, SEEDS, GRID = 48, 2, "0.5,1,2"
BOLD = """
[method]
name = "mezo"
probes = 3
eps = 1e-2
[rule]
lr = 2e-3
[compare]
label = "bold mezo"
grid = [1, 4, 16]
"""


def prepared(folder: Path) -> Place:
    """A place with an entry of its own, methods/bold.toml."""
    place = make_place(folder)
    (folder / "methods").mkdir()
    (folder / "methods" / "bold.toml").write_text(BOLD)
    return place


def compared(place: Place, out: Path, methods: str = "mezo,bold", **changes) -> Compared:
    settings = {"budget": BUDGET, "seeds": SEEDS, "grid": GRID.split(","), "jobs": 1, **changes}
    return compare(place.config, methods.split(","), out=out, **settings)


def results(out: Path) -> list[dict]:
    """The lines of results.jsonl without their seconds, which no two runs share."""
    lines = list(read_lines(out / "results.jsonl"))
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def folder_of(out: Path, line: dict) -> Path:
    return out / "runs" / line["entry"] / f"{line['lr']!r}-seed{line['seed']}"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return prepared(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def reference(place) -> Compared:
    """An uninterrupted comparison, in this process."""
    return compared(place, place.folder / "reference")


@pytest.fixture(scope="module")
def lines(reference) -> list[dict]:
    return results(reference.out)


def test_every_reported_run_takes_the_same_forwards_up_to_one_step(reference, lines):
    per_step = {row.label: row.forwards_per_step for row in reference.rows}
    assert (per_step["mezo"], per_step["bold mezo"]) == (2, 6)
    for row in reference.rows:
        for run in row.runs:
            assert run["steps"] == row.steps and run["forwards"] == row.steps * row.forwards_per_step
            assert BUDGET - row.forwards_per_step < run["forwards"] <= BUDGET
    assert all(line["forwards"] <= BUDGET for line in lines)


def test_the_averaged_baseline_has_the_probes_of_the_costliest_entry(reference):
    (averaged,) = [row for row in reference.rows if row.label == "mezo averaged"]
    others = [row.forwards_per_step for row in reference.rows if row is not averaged]
    assert averaged.forwards_per_step == max(4, 2 * (max(others) // 2))


def test_the_baselines_take_part_unasked(place, tmp_path):
    found = compared(place, tmp_path / "out", "bold", budget=12, seeds=1, grid=["1", "2", "4"])
    labels = {row.label for row in found.rows}
    assert {"mezo", "mezo x2", "mezo x4", "mezo averaged", "bold mezo"} <= labels
    assert ("meazo" in labels) == ("meazo" in METHODS)
    assert any("meazo" in note for note in found.notes) == ("meazo" not in METHODS)


def test_mezo_is_reported_at_multiples_of_its_tuned_rate(reference, lines):
    rows = {row.label: row for row in reference.rows}
    rate = rows["mezo"].rate
    assert [rows[f"mezo x{k}"].rate for k in (2, 4)] == [2 * rate, 4 * rate]
    reported = {line["lr"] for line in lines if line["entry"] == "mezo" and line["phase"] == "final"}
    assert reported == {rate, 2 * rate, 4 * rate}


def test_the_lowest_validation_loss_chooses_the_rate(reference, lines):
    for row in reference.rows:
        tried = [x for x in lines if x["phase"] == "tune" and x["entry"] == row.runs[0]["entry"]]
        assert len(tried) == 3 and {line["split"] for line in tried} == {"validation"}
        best = min(tried, key=lambda line: line["scores"]["loss"])
        assert row.runs[0]["lr"] in [k * best["lr"] for k in (1, 2, 4)]
        if " x" not in row.label:
            assert row.rate == best["lr"]
            assert row.at_end == (best["lr"] in (min(x["lr"] for x in tried), max(x["lr"] for x in tried)))


def test_tuning_sees_neither_the_test_split_nor_a_reported_seed(reference, lines):
    seeds = {phase: {x["seed"] for x in lines if x["phase"] == phase} for phase in ("tune", "final")}
    assert seeds["final"] == {0, 1} and not seeds["tune"] & seeds["final"]
    for line in lines:
        splits = {
            m["split"] for m in read_lines(folder_of(reference.out, line) / "metrics.jsonl") if "split" in m
        }
        assert ("test" in splits) == (line["phase"] == "final"), line


def test_rows_are_means_over_seeds_sorted_by_loss(reference):
    losses = [row.loss.value for row in reference.rows]
    assert losses == sorted(losses)
    for row in reference.rows:
        values = [run["scores"]["accuracy"] for run in row.runs]
        assert len(values) == SEEDS and row.accuracy.value == pytest.approx(sum(values) / SEEDS, abs=1e-15)
        assert row.accuracy.error == pytest.approx(abs(values[0] - values[1]) / 2, abs=1e-15)


def test_a_run_ends_in_the_bits_that_train_gives_it(reference, lines, tmp_path):
    """The last of many runs that one process has made on the same loaded model."""
    for line in (lines[-1], lines[0]):
        folder = folder_of(reference.out, line)
        alone = train(load(folder / "config.toml", [f"run.folder={tmp_path / line['entry']}"]), quiet=True)
        assert alone.digest == line["digest"]
        for name in ("journal.jsonl", "metrics.jsonl"):
            assert (alone.folder / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_run_replays_and_keeps_no_snapshot(reference, lines):
    line = lines[-1]
    folder = folder_of(reference.out, line)
    assert replay(folder).digest == line["digest"]
    assert not list(reference.out.rglob("*.safetensors"))


def test_the_base_model_is_evaluated_once(reference, lines):
    shared = [line["line"] for line in read_lines(reference.out / "before.jsonl")]
    assert sorted(line["split"] for line in shared) == ["test", "validation"]
    for line in lines:
        first = [m for m in read_lines(folder_of(reference.out, line) / "metrics.jsonl") if "split" in m]
        assert all(m in shared for m in first if m["step"] == 0)


def test_table_and_picture_are_written(reference):
    written = (reference.out / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in written[2 : 2 + len(reference.rows)]] == [
        row.label for row in reference.rows
    ]
    assert all(line.count("|") == written[0].count("|") for line in written[: 2 + len(reference.rows)])
    assert any("before training: accuracy" in line for line in written)
    assert ("†" in written[-1] or any(line.startswith("† ") for line in written)) == any(
        row.at_end for row in reference.rows
    )
    assert (reference.out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert all(row.seconds_per_forward > 0 for row in reference.rows)
    json.dumps(reference.plain(), allow_nan=False)


def test_a_finished_comparison_is_read_not_run(place, reference, lines):
    before = (reference.out / "results.jsonl").read_bytes()
    journals = {p: p.stat().st_mtime_ns for p in reference.out.rglob("journal.jsonl")}
    assert len(journals) == len(lines)
    (reference.out / "results.jsonl").unlink()
    again = compared(place, reference.out)
    assert (reference.out / "results.jsonl").read_bytes() == before and again.plain() == reference.plain()
    assert {p: p.stat().st_mtime_ns for p in reference.out.rglob("journal.jsonl")} == journals


def test_a_killed_comparison_goes_on_to_the_same_results(place, reference, lines, tmp_path):
    """Two processes at work, SIGKILL to their parent alone, then the same comparison: the results of one process."""
    out = tmp_path / "out"
    options = ["--methods", "mezo,bold", "--budget", BUDGET, "--seeds", SEEDS, "--grid", GRID]
    command = [sys.executable, "-m", "zodist", "compare", place.config, *options, "--out", out, "--jobs", 2]
    begun = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(out.glob("runs/*/*/journal.jsonl"))) > 3 or begun.poll() is not None)
    os.kill(begun.pid, signal.SIGKILL)
    begun.wait()
    assert len(results(out)) < len(lines)
    found = compared(place, out, jobs=2)
    assert not found.problem and results(out) == lines
    assert [row.label for row in found.rows] == [row.label for row in reference.rows]


def test_a_diverging_rate_is_recorded_and_not_fatal(place, tmp_path):
    out, grid = tmp_path / "out", ["1", "9e40", "1e41"]
    (place.folder / "methods" / "wild.toml").write_text(
        BOLD.replace("[1, 4, 16]", "[4e40, 4.5e40, 5e40]").replace("bold ", "wild ")
    )
    found = compared(place, out, "mezo,wild", budget=24, seeds=1, grid=grid)
    assert not found.problem
    tried = [line for line in results(out) if line["entry"] == "mezo" and line["phase"] == "tune"]
    assert [line["failed"] is None for line in tried] == [True, False, False]
    rows = {row.label: row for row in found.rows}
    assert rows["mezo"].rate == tried[0]["lr"] and rows["mezo"].at_end
    assert rows["wild mezo"].rate is None and found.rows[-1].label == "wild mezo"
    assert "none worked" in (out / "table.md").read_text()
    assert compared(place, out, "mezo,wild", budget=24, seeds=1, grid=grid).plain() == found.plain()


class Singular(Method):
    """Meets a matrix that it cannot invert in the second step of a tuning run."""

    settings_type, paper, replay, forwards = Settings, "", "", "1"

    def __init__(self, settings: Settings) -> None:
        pass

    def direction(self, param: Param) -> Law:
        return Dense(noise.GAUSSIAN, False)

    def step(self, seeds: StepSeeds) -> Step:
        losses = yield (Probe(1, (Combination.of(),)),)
        if seeds.step and seeds.run >= 1000:  # not where its forward passes are counted
            np.linalg.inv(np.zeros((2, 2)))
        return Outcome(Combination.of((1, 1e-3)), float(losses[0, 0]), 0.0)


def test_a_method_whose_arithmetic_fails_is_recorded_and_not_fatal(place, tmp_path, monkeypatch):
    monkeypatch.setitem(registry(), "singular", MethodEntry(f"{__name__}:Singular"))  # type: ignore[arg-type]
    found = compared(place, tmp_path / "out", "singular", budget=4, seeds=1, grid=["1", "2", "4"])
    assert not found.problem and found.rows[-1].label == "singular" and found.rows[-1].rate is None
    tried = [line for line in results(tmp_path / "out") if line["entry"] == "singular"]
    assert [line["failed"] for line in tried] == ["LinAlgError: Singular matrix"] * 3
    assert {line["steps"] for line in tried} == {1}


def test_entries_may_be_added_to_a_comparison(place, tmp_path):
    out = tmp_path / "out"
    changes = {"budget": 12, "seeds": 1, "grid": ["1", "2", "4"]}
    compared(place, out, "mezo", **changes)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("journal.jsonl")}
    compared(place, out, "bold", **changes)
    after = {p: p.stat().st_mtime_ns for p in out.rglob("journal.jsonl")}
    assert before.items() < after.items()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": BUDGET + 2}, "budget is 48 there, 50 here"),
        ({"seeds": 3}, "seeds is 2 there, 3 here"),
        ({"tune_budget": 20}, "tune_budget is 48 there, 20 here"),
        ({"grid": ["1", "2", "8"]}, "grid is"),
    ],
)
def test_another_comparison_in_the_folder_is_refused(place, reference, changes, said):
    with pytest.raises(ConfigError) as error:
        compared(place, reference.out, **changes)
    assert "holds another comparison" in str(error.value) and said in str(error.value)


def test_another_config_in_the_folder_is_refused(place, reference, tmp_path):
    other = tmp_path / "config.toml"
    other.write_text(place.config.read_text().replace("size = 3", "size = 4"))
    with pytest.raises(ConfigError, match=r"config.batch.size is 3 there, 4 here"):
        compare(other, ["mezo"], budget=BUDGET, seeds=SEEDS, grid=GRID.split(","), out=reference.out)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[method]\nname = 'mezo'\nprobe = 3\n",
            "odd.toml:3: [method] has no key 'probe'; did you mean 'probes'?",
        ),
        ("[rule]\nlr = -1.0\n[method]\nname = 'mezo'\n", "odd.toml:2: rule.lr = -1.0 must be > 0"),
        ("[batch]\nsize = 3\n", "odd.toml:1: there is no section [batch]"),
        ("[compare]\nlabels = 'x'\n", "odd.toml:2: [compare] has no key 'labels'; did you mean 'label'?"),
        ("[compare]\ngrid = [1, -2, 4]\n", "must be > 0"),
        (
            "[compare]\ngrid = [1, 2]\n[method]\nname = 'mezo'\n",
            "compare.grid has 2 factors, the other entries try 3",
        ),
        (
            "[method]\nname = 'mezzo'\n",
            "odd.toml:2: method.name = 'mezzo' is not a method; did you mean 'mezo'?",
        ),
        ("[compare]\nlabel = 'mezo'\n[method]\nname = 'mezo'\n", "two entries are labelled 'mezo'"),
    ],
)
def test_a_mistake_in_an_entry_is_one_sentence(tmp_path, text, said):
    place = prepared(tmp_path)
    (tmp_path / "methods" / "odd.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        compared(place, tmp_path / "out", "odd")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("methods", "changes", "said"),
    [
        ("mezo,bould", {}, "'bould' is not a method; did you mean 'bold'?"),
        ("../bold", {}, "is not a method"),
        ("bold", {"budget": 5}, "a step of 'bold' takes 6 forward passes, more than the budget of 5"),
        ("bold", {"grid": ["1", "x"]}, "--grid '1,x' must be numbers with commas"),
        ("bold", {"grid": ["1", "-1"]}, "--grid must be factors above 0"),
    ],
)
def test_a_mistake_in_the_command_is_one_sentence(place, tmp_path, methods, changes, said):
    with pytest.raises(ConfigError) as error:
        compared(place, tmp_path / "out", methods, **changes)
    assert said in str(error.value)


def test_two_comparisons_cannot_share_a_folder_at_once(place, reference):
    from filelock import FileLock

    with FileLock(reference.out / ".lock"), pytest.raises(JournalError, match="another process is at work"):
        compared(place, reference.out)


def test_a_run_that_needs_somebody_does_not_stop_the_others(place, lines, tmp_path):
    """A folder where a file should be: one of mezo's tuning runs cannot be written."""
    out = tmp_path / "out"
    (out / "runs" / "mezo" / "0.001-seed1000" / "metrics.jsonl").mkdir(parents=True)
    found = compared(place, out)
    assert "run mezo/0.001-seed1000" in found.problem
    done = results(out)
    assert [x for x in done if x["entry"] == "bold"] == [x for x in lines if x["entry"] == "bold"]
    (out / "runs" / "mezo" / "0.001-seed1000" / "metrics.jsonl").rmdir()
    assert not compared(place, out).problem and results(out) == lines
