"""`zodist report`: what it reads from a run folder, that its figures are right, and what it does without some files."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from runs import Place, finish, make_place

from zodist.errors import JournalError
from zodist.journal import read
from zodist.report.course import EXCHANGE, FORWARD, REST, UPDATE, crew, phases
from zodist.report.document import page
from zodist.report.picture import running_mean
from zodist.report.recorded import AXES, Run, differing, recorded, short_names
from zodist.report.screen import bars, show
from zodist.report.slopes import Slopes, common_part, signal_to_noise, slopes
from zodist.report.summary import figures
from zodist.step import records


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A finished run of two workers, with two data lanes and a diagnosis beside it."""
    made = make_place(tmp_path_factory.mktemp("report"))
    finish(made, 2, "batch.data_lanes=2", "method.probes=2")
    (made.run / "diagnose.json").write_text('{"method": "mezo", "step": 19, "critical_batch": 7.25}')
    return made


@pytest.fixture(scope="module")
def html(place: Place) -> str:
    """The page of that run."""
    return page(recorded([place.run]))


@pytest.fixture
def copy(place: Place, tmp_path: Path) -> Path:
    """The run's folder, to be changed."""
    return Path(shutil.copytree(place.run, tmp_path / "copy"))


def only(folder: Path) -> Run:
    return recorded([folder])[0]


def text_of(html: str) -> str:
    return re.sub(r"<[^>]*>", " ", html)


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zodist", "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_command_writes_a_page_and_says_the_same_on_the_terminal(place, html, copy):
    done = report(copy)
    assert done.returncode == 0, done.stderr
    assert (copy / "report.html").read_text().count("<img") == html.count("<img") == 7
    for told in (place.digest(), "7.25", "Phases", "Workers", "Signal to noise", "Settings"):
        assert told in text_of(html), told
    assert place.digest() in done.stdout and "critical_batch 7.25" in done.stdout and "mezo" in done.stdout


def test_programs_get_the_figures_as_json(place):
    found = json.loads(json.dumps(figures(only(place.run)), allow_nan=False))
    assert (found["steps"], found["digest"], found["workers"]) == (20, place.digest(), 2)
    assert found["after"]["loss"] < found["before"]["loss"] and found["sent"] > 0


def test_everything_on_the_page_is_inside_it(html):
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(sources) > 8 and all(source.startswith(("data:", "#")) for source in sources)
    assert "http" not in re.sub(r"<pre>.*?</pre>", "", html.replace("http-equiv", ""), flags=re.S)
    assert not re.search(r"<script|@import|url\(", html)


def test_the_same_run_gives_the_same_page(place, html):
    assert page(recorded([place.run])) == html


def test_a_run_of_one_step_without_timings_has_a_page(place, copy):
    lines = (copy / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "journal.jsonl").write_bytes(b"".join(lines[:2]))
    text = [line for line in place.file("metrics.jsonl").splitlines() if json.loads(line)["step"] <= 1]
    (copy / "metrics.jsonl").write_bytes(b"\n".join(text) + b"\n")
    (copy / "timings.jsonl").unlink()
    html = text_of(page([only(copy)]))
    assert "timings.jsonl is missing" in html and "Not known: seconds" in html


@pytest.mark.parametrize("kept", [0, 1])
def test_a_folder_with_a_journal_alone_has_a_page_and_a_view(copy, kept):
    for path in copy.iterdir():
        if path.name != "journal.jsonl":
            path.unlink()
    if not kept:
        journal = copy / "journal.jsonl"
        journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    run = only(copy)
    assert len(run.steps) == 20 * kept and len(run.missing) == 3
    console = Console(file=io.StringIO(), width=200)
    show([run], console)
    assert "metrics.jsonl" in page([run]) or not kept
    json.dumps(figures(run), allow_nan=False)


def test_losses_of_a_lost_metrics_file_are_those_of_the_journal(place, copy):
    (copy / "metrics.jsonl").unlink()
    known = [line["loss"] for line in only(place.run).steps]
    np.testing.assert_allclose([line["loss"] for line in only(copy).steps], known, rtol=1e-6)


def test_a_damaged_journal_is_one_sentence_and_status_2(copy):
    data = bytearray((copy / "journal.jsonl").read_bytes())
    data[-60] ^= 1
    (copy / "journal.jsonl").write_bytes(bytes(data))
    done = report(copy)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"zodist: .*journal\.jsonl:21: .*\n", done.stderr), done.stderr
    with pytest.raises(JournalError, match="holds no journal"):
        recorded([copy.parent])


def test_a_diagnosis_that_is_none_is_said_and_left_out(copy):
    (copy / "diagnose.json").write_text("zodist: it did not work")
    run = only(copy)
    assert run.diagnosis == {} and any("diagnose.json" in text for text in run.missing)
    assert f"zodist diagnose {copy} --json" in text_of(page([run]))


def test_markup_in_names_and_settings_stays_text(place):
    run = only(place.run)
    html = page([replace(run, name="<b>[red]x", config='[run]\nfolder = "<i>"\n')])
    assert "<b>" not in html and "<i>" not in html and "&lt;b&gt;[red]x" in html
    console = Console(file=io.StringIO(), width=200)
    show([replace(run, name="[red]x")], console)
    assert "[red]x" in console.file.getvalue()  # type: ignore[attr-defined]


def test_slopes_of_the_journal_are_those_of_the_run(place):
    """Two-sided probes: the scale that is found is 1 / (2 eps), but for the rounding of the journal's float32."""
    run = only(place.run)
    found = slopes(run)
    assert found is not None and found.scaled and found.values.shape == (20, 2, 2, 1)
    differences = np.stack([entry.values[:, 0] for entry in read(place.run / "journal.jsonl").entries])
    np.testing.assert_allclose(found.values.reshape(20, 4), differences / (2 * 1e-2), rtol=1e-5)


def test_signal_to_noise_is_the_ratio_that_was_put_in():
    rng, lanes = np.random.default_rng(0), 4
    signal, noise = 3.0, 2.0  # of a direction's slope; of each of its lanes
    values = signal * rng.standard_normal((50, 400, 1, 1)) + noise * rng.standard_normal((50, 400, lanes, 1))
    result = signal_to_noise(Slopes(np.arange(1, 51), values, True))
    assert result is not None and result[2] == 400
    # 20,000 directions: the ratio of variances is known to about 1.5 %, its root to half of that.
    assert np.mean(result[1]) == pytest.approx(signal / (noise / math.sqrt(lanes)), rel=0.03)
    silent = signal_to_noise(Slopes(np.arange(1, 51), noise * rng.standard_normal((50, 400, lanes, 1)), True))
    assert silent is not None and np.median(silent[1]) < 0.3
    assert signal_to_noise(Slopes(np.arange(1, 51), values[:, :, :1], True)) is None


def test_a_common_part_stands_out_of_chance_and_nothing_else_does():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((300, 5, 1, 1))
    steps, over, errors, n = common_part(Slopes(np.arange(1, 301), values, True))
    assert (n, list(steps[:2]), len(over)) == (25, [5, 10], 60)
    assert np.mean(np.abs(errors) < 2.06) == pytest.approx(
        0.95, abs=0.08
    )  # Student's t, 24 degrees of freedom
    _, over, _, _ = common_part(Slopes(np.arange(1, 301), values + 1.0, True))
    assert np.median(over) == pytest.approx(1.0, rel=0.15)


def timed(run: Run, *lines: dict) -> Run:
    return replace(run, timings=list(lines))


def test_seconds_go_on_where_the_last_session_ended_and_steps_done_again_keep_their_first(place):
    run = timed(
        only(place.run),
        {"session": 1, "step": 0, "seconds": 0.0, "workers": 1},
        {"session": 1, "step": 10, "seconds": 5.0},
        {"session": 2, "step": 7, "seconds": 0.0, "workers": 1},
        {"session": 2, "step": 10, "seconds": 2.0},
        {"session": 2, "step": 20, "seconds": 4.0},
    )
    steps, seconds = run.clock
    assert (list(steps), list(seconds), run.seconds) == ([0, 10, 20], [0.0, 5.0, 9.0], 9.0)
    assert list(run.place("seconds", [{"step": 5}, {"step": 15}])) == [2.5, 7.0]
    assert math.isnan(run.place("seconds", [{"step": 21}])[0])


def test_bytes_of_records_are_counted_round_by_round(place):
    run = only(place.run)
    assert run.record_bytes[-1] == 20 * 4 * records.record_bytes(2) == run.place("bytes", [{"step": 20}])[0]
    assert set(AXES) == {"steps", "forwards", "seconds", "bytes"}


def spent(forward: float, gather: float, update: float) -> dict[str, float]:
    return {"forward_s": forward, "gather_s": gather, "update_s": update}


def test_phases_are_means_between_lines_and_add_up_over_sessions(place):
    """The second session replays two steps, which no phase has."""
    run = timed(
        only(place.run),
        {"session": 1, "step": 0, "seconds": 0.0},
        {"session": 1, "step": 10, "seconds": 9.0, "trained": 10, **spent(5.0, 2.0, 1.0)},
        {"session": 1, "step": 12, "seconds": 12.0, "trained": 12, **spent(6.0, 2.5, 1.5)},
        {"session": 2, "step": 10, "seconds": 0.0},
        {"session": 2, "step": 20, "seconds": 5.0, "trained": 8, **spent(0.8, 1.6, 2.4)},
    )
    found = phases(run)
    assert found is not None and not found.together
    assert list(found.steps) == [10, 12, 20]
    np.testing.assert_allclose(found.each, [[0.5, 0.2, 0.1], [0.5, 0.25, 0.25], [0.1, 0.2, 0.3]])
    parts = {FORWARD: 6.8, EXCHANGE: 4.1, UPDATE: 3.9}
    assert found.total == pytest.approx({**parts, REST: 17.0 - sum(parts.values())})
    real = phases(only(place.run))
    assert real is not None and sum(real.total.values()) == pytest.approx(only(place.run).seconds)
    assert min(real.total.values()) > 0 and real.each.shape == (2, 3)
    assert phases(timed(run)) is None


def test_phases_of_an_elastic_run_are_seconds_of_all_workers(place):
    run = timed(
        only(place.run),
        {"session": 1, "step": 4, "seconds": 0.0, "workers": 0},
        {"session": 1, "step": 5, "seconds": 0.1, "event": "worker 1 joins"},
        {"session": 1, "step": 14, "seconds": 2.0, "workers": 3, **spent(4.0, 1.0, 0.5)},
        {"session": 1, "step": 14, "seconds": 3.0, **spent(4.5, 1.5, 0.5)},  # when all have left
    )
    found = phases(run)
    assert found is not None and found.together and REST not in found.total
    np.testing.assert_allclose(found.each, [[0.4, 0.1, 0.05]])
    assert found.total == pytest.approx({FORWARD: 4.5, EXCHANGE: 1.5, UPDATE: 0.5})
    told = text_of(page([run]))
    assert "All workers' seconds" in told and "waiting for slower workers" in told


def test_workers_that_come_and_go_and_work_done_again_are_told(place):
    run = timed(
        only(place.run),
        {"session": 1, "step": 0, "seconds": 0.0, "workers": 0, "started": "2026-01-02T03:04:05Z"},
        {"session": 1, "step": 10, "seconds": 1.0, "workers": 3, "offered_again": 0, "refused": 0},
        {"session": 1, "step": 20, "seconds": 2.0, "workers": 2, "offered_again": 1, "refused": 0},
        {"session": 2, "step": 20, "seconds": 0.5, "workers": 0, "started": "2026-01-02T03:05:05Z"},
        {"session": 2, "step": 30, "seconds": 1.0, "workers": 4, "offered_again": 0, "refused": 2},
        {"session": 3, "step": 30, "seconds": 0.0, "workers": 0},
        {"session": 3, "step": 31, "seconds": 1.5, "event": "worker 4 leaves"},
        {"session": 3, "step": 31, "seconds": 2.0, "workers": 3},
    )
    found = crew(run)
    told = [(h.seconds, h.text) for h in found.happenings]
    assert told == [
        (2.0, "2 workers, 1 fewer: left, stopped or dead"),
        (2.0, "1 item was offered again to other workers"),
        (2.5, "started again, 2026-01-02 03:05:05 UTC"),
        (3.0, "4 workers, 2 more: joined"),
        (3.0, "2 items were refused"),
        (3.0, "started again, later"),
        (4.5, "worker 4 leaves"),
    ]
    assert (found.workers, found.seconds) == ([3, 2, 4, 3, 3], [1.0, 2.0, 3.0, 5.0, 5.0])
    assert "worker 4 leaves" in text_of(page([run]))


def test_names_are_as_long_as_they_must_be_and_settings_that_differ_are_found(place, copy, tmp_path):
    paths = [tmp_path / name for name in ("a/x/run", "b/x/run")]
    assert short_names(paths) == ["a/x/run", "b/x/run"]
    assert short_names(paths[:1]) == ["run"] and short_names([paths[0], paths[0]]) == ["run", "run"]
    config = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(config.replace("lr = 0.001", "lr = 0.5"))
    runs = recorded([place.run, copy])
    assert differing(runs) == {"rule.lr": {"0.001": ["run"], "0.5": ["copy"]}}
    console = Console(file=io.StringIO(), width=200)
    show(runs, console)
    assert "rule.lr: 0.001, 0.5" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "Settings that differ" in page(runs)


def test_a_loss_that_is_not_finite_leaves_the_mean_and_the_bars_alone():
    assert running_mean([1.0, math.nan, 1.0]) == pytest.approx([1.0, 1.0, 1.0])
    assert math.isnan(running_mean([math.inf])[0])
    assert bars([math.nan, 1.0, 2.0]) == " ▁█  1 to 2" and bars([math.nan]) == "no finite value"
