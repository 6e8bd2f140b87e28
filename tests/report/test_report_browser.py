"""The page of a report in a real browser: it draws what it should, complains of nothing and asks nobody for anything."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from zodist.journal import Journal
from zodist.report.document import page
from zodist.report.page import html
from zodist.report.recorded import recorded
from zodist.step import Entry

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium here; apt-get install chromium")

HEADER = {
    "batch": {"data_lanes": 1},
    "method": {"name": "mezo", "eps": 1e-3},
    "model": {"fingerprint": "0" * 16, "dtype": "float32"},
    "noise": "zodist-noise/1",
    "rule": {"name": "sgd", "lr": 0.01},
    "seed": 0,
    "task": {"name": "sst2", "fingerprint": "0" * 16},
    "threads": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps with evaluations, workers that come and go, and long names."""
    made = (
        tmp_path_factory.mktemp("browser")
        / "a-run-whose-name-has-no-place-to-break-it-and-is-too-long-to-fit"
    )
    journal = Journal.create(made / "journal.jsonl", HEADER)
    slopes = np.random.default_rng(0).standard_normal(60)
    lines: list[dict[str, object]] = []
    for t, slope in enumerate(slopes):
        loss = float(np.exp(-t / 30))
        journal.append(Entry(t, 0, 0.01, np.array([[2e-3 * slope, loss]], np.float32)))
        lines.append({"step": t + 1, "loss": loss, "slope": abs(slope), "lr": 0.01, "forwards": 2 * t + 2})
    journal.close()
    for step in (0, 30, 60):
        score = {"loss": 1.0, "loss_error": 0.1, "accuracy": 0.5, "accuracy_error": 0.05, "calibrated": 0.6}
        lines.append({"step": step, "split": "test", **score, "majority": 0.5, "forwards": 2 * step})
        lines.append({"step": step, "digest": "0123456789abcdef"})
    timings = [
        {
            "session": 1,
            "step": 10 * k,
            "seconds": 1.5 * k,
            "workers": 1 + k % 3,
            "forward_s": 0.3 * k,
            "gather_s": 0.2 * k,
            "update_s": 0.1 * k,
        }
        for k in range(7)
    ]
    for name, found in (("metrics", lines), ("timings", timings)):
        (made / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))
    return made


def browse(html: str, folder: Path, width: int) -> tuple[np.ndarray, list[str]]:
    """The picture of a page [height, width, 4], and what the console said: a request that the page may not make, too."""
    source, picture = folder / "page.html", folder / f"{width}.png"
    source.write_text(html)
    assert BROWSER is not None
    done = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--disable-background-networking", "--enable-logging=stderr", "--v=0"),
            f"--user-data-dir={folder / 'profile'}",
            *(f"--window-size={width},5000", f"--screenshot={picture}", source.as_uri()),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
    )
    assert picture.exists(), done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return imread(picture), console


@pytest.mark.parametrize("width", [1280, 400])
def test_a_report_draws_its_pictures_and_fits_without_a_complaint_or_a_request(folder, tmp_path, width):
    picture, console = browse(page(recorded([folder])), tmp_path, width)
    assert console == []
    assert picture.shape[:2] == (5000, width)
    margin, inside = picture[:, -12:, :3], picture[:, 12:-12, :3]
    assert (margin > 0.98).all(), "something sticks out on the right"
    blue = np.abs(inside - np.array([0x2F, 0x6D, 0xB3]) / 255).max(axis=2) < 0.05
    assert np.count_nonzero(blue.any(axis=1)) > 400, "the pictures are not there"


def test_what_a_page_would_fetch_is_refused_and_seen(tmp_path):
    """So the silence of the test above means something."""
    _, console = browse(html("x", ['<img src="http://127.0.0.1:9/x.png">']), tmp_path, 400)
    assert len(console) == 1 and "Content Security Policy" in console[0]
