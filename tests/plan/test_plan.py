"""The planner: shapes as published, costs that can be checked by hand, advice that follows from them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from models import tiny
from typer.testing import CliRunner

from zodist.__main__ import app
from zodist.errors import ConfigError, ModelError
from zodist.exchange import DIRECT_BYTES as GLOO_BYTES
from zodist.plan import advice, cost, skew
from zodist.plan.against import compare, measured_cells, summary
from zodist.plan.asking import asked_of
from zodist.plan.calibration import REFERENCE, Calibration, Link, Pace, read_calibration, write_calibration
from zodist.plan.cost import Job
from zodist.plan.first_order import FirstOrder, sent_bytes, step_s, ways
from zodist.plan.memory import Machines, fit, worker_bytes
from zodist.plan.shapes import Shape, read_shape, shape_of

SHAPE = Shape("made up", 1_000_000, 800_000, 100_000, 200_000, 10, 100, 4, 1000, 8_000, 0, 6_000)
MACHINE = Calibration(
    machine="made up",
    measured="",
    device="cpu",
    cores=4,
    threads=1,
    products={"float32": {1: 1e9}},
    noise={"rademacher/float32": Pace(pair=1e8, fold=2e8, seed=5e8)},
    touch={"float32": 1e9},
    copy_rate=1e10,
    call_s=1e-4,
    move_s=1e-5,
    fixed_s=1e-3,
    spread=0.0,
    link=Link(workers=2, round_s=0.02, rate=1e6),
)
JOB = Job(workers=2, probes=4, batch=5, tokens=10, kept=2, dtype="float32")
# By hand: a forward multiplies 2 * 50 * 800,000 + 2 * 5 * 2 * 100 = 80,002,000 numbers, and 50 * 6,000 pass between its
# products; a probe has two points.
ITEM_S = 2 * (80_002_000 + 300_000) / 1e9 + 1e6 / 1e8 + 10 * 1e-4
FOLD_S = 1e6 / 2e8 + 10 * 1e-5


@pytest.mark.parametrize(
    ("name", "count"),
    [("llama-3.2-3b", 3_212_749_824), ("llama-3-8b", 8_030_261_248), ("llama-3-70b", 70_553_706_496)],
)
def test_built_in_shapes_have_the_published_number_of_parameters(name: str, count: int) -> None:
    assert read_shape(name).parameters == count


def test_opt_175b_is_what_its_sizes_say() -> None:
    h, layers = 12_288, 96
    block = 12 * h * h + 13 * h  # attention and MLP with biases, two norms
    assert read_shape("opt-175b").parameters == layers * block + 50_272 * h + 2_050 * h + 2 * h


def test_a_shape_counts_tied_weights_once_and_the_head_apart() -> None:
    model = tiny("llama-tied")
    shape = shape_of(model, "tiny")
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.head == 97 * 24 and shape.vocabulary == 97
    attention, mlp = 24 * 32 + 2 * 24 * 16 + 32 * 24, 3 * 24 * 40
    assert shape.linear == 2 * (attention + mlp)
    assert shape.crossing == 2 * ((24 + 32) * 2 + (24 + 16) * 2 + 3 * (24 + 40))
    assert shape.operations(3, 5, 2) == 2 * 15 * shape.linear + 2 * 3 * 2 * 24 + 4 * 3 * 25 * 2 * 32


def test_a_folder_and_its_config_file_have_one_shape(tmp_path: Path) -> None:
    tiny("opt").config.save_pretrained(tmp_path)
    assert read_shape(str(tmp_path)).parameters == read_shape(str(tmp_path / "config.json")).parameters > 0


def test_a_model_that_is_none_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read.*opt-30b"):
        read_shape(str(tmp_path))


def test_a_step_costs_what_a_hand_calculates() -> None:
    found = cost.cost(SHAPE, JOB, MACHINE)
    assert found.forward_s == pytest.approx(2 * ITEM_S)  # 4 probes by 2 workers
    assert found.update_s == pytest.approx(FOLD_S + 1e-3)
    # Two records of 16 bytes are padded to 64; with 4 bytes of length they go to one other worker.
    assert (found.payload, found.frames) == (32, 68)
    assert found.exchange_s == pytest.approx(0.02 + 68 / 1e6)
    assert found.wait_s == 0
    assert found.step_s == pytest.approx(2 * ITEM_S + FOLD_S + 1e-3 + 0.02 + 68e-6)
    assert found.replay_share == pytest.approx((FOLD_S + 1e-3) / found.step_s)


def test_a_link_that_is_asked_about_crowds_nobody(tmp_path: Path) -> None:
    """What further processes on one machine cost each other is no property of hosts with links of their own."""
    crowded = MACHINE.model_copy(update={"link": Link(workers=2, round_s=0.02, peer_s=0.1, rate=0.0)})
    write_calibration(tmp_path / "rates.json", crowded)
    options = ["llama-3.2-3b", "--workers", "12", "--dtype", "float32", "--json"]
    options += ["--calibration", str(tmp_path / "rates.json")]

    def exchange_s(*more: str) -> float:
        return json.loads(CliRunner().invoke(app, ["plan", *options, *more]).stdout)["step"]["exchange_s"]

    assert exchange_s() == pytest.approx(0.02 + 10 * 0.1)
    assert exchange_s("--delay-ms", "5") == pytest.approx(0.02 + 2 * 0.005)
    assert exchange_s("--mbit", "8") == pytest.approx(0.02 + 11 * (64 + 4) / 1e6)


def test_long_records_are_sent_at_the_rate_of_the_link_to_every_other_worker() -> None:
    found = cost.cost(SHAPE, replace(JOB, workers=4, probes=40), MACHINE)
    assert found.payload == 3 * 160 and found.frames == 3 * 164
    assert found.exchange_s == pytest.approx(0.02 + 3 * 164 / 1e6)


def test_coded_probes_are_folded_in_one_pass_and_independent_ones_draw_for_each() -> None:
    def update(coupling: cost.Coupling, probes: int) -> float:
        return cost.update_s(SHAPE, replace(JOB, coupling=coupling, probes=probes), MACHINE)

    assert update("walsh", 1) == update("walsh", 4096) == pytest.approx(FOLD_S)
    assert update("independent", 1) == pytest.approx(FOLD_S)
    assert update("independent", 11) == pytest.approx(FOLD_S + 10 * 1e6 / 5e8)


def test_low_rank_updates_are_products_once_they_outweigh_a_pass() -> None:
    job = replace(JOB, coupling="low-rank", rank=4, probes=1000)
    drawn = 1000 * 4 * 8_000 / 5e8
    assert cost.update_s(SHAPE, job, MACHINE) == pytest.approx(2 * 1e6 * 4 * 1000 / 1e9 + drawn)


def test_workers_that_share_cores_slow_each_other_down() -> None:
    alone, crowded = (cost.cost(SHAPE, replace(JOB, workers=8, beside=n), MACHINE) for n in (4, 8))
    assert crowded.forward_s == pytest.approx(2 * alone.forward_s)
    assert crowded.exchange_s == alone.exchange_s


def test_the_wait_shrinks_with_the_items_of_a_worker() -> None:
    spread = MACHINE.model_copy(update={"spread": 0.2})
    few, many = (cost.cost(SHAPE, replace(JOB, workers=8, probes=8 * n), spread) for n in (1, 16))
    assert few.wait_s == pytest.approx(few.forward_s * skew.wait_share(8, 0.2))
    assert many.wait_s == pytest.approx(many.forward_s * skew.wait_share(8, 0.05))
    crowded = cost.cost(SHAPE, replace(JOB, workers=8, probes=8, beside=8), spread)
    assert crowded.wait_s == pytest.approx(
        few.wait_s
    )  # twice as long a forward, but who waits leaves its core


def test_efficiency_is_one_for_one_worker_and_falls_with_the_wall() -> None:
    def efficiency(workers: int, coupling: cost.Coupling) -> float:
        job = replace(JOB, workers=workers, probes=workers, coupling=coupling)
        return cost.efficiency(SHAPE, job, MACHINE)

    assert efficiency(1, "walsh") == efficiency(1, "independent") == 1
    few, many = (efficiency(n, "independent") for n in (8, 8000))
    assert 1 > few > 0.5 > many
    assert efficiency(8000, "walsh") > 10 * many


def test_frames_turn_to_a_ring_where_the_exchange_does() -> None:
    assert cost.DIRECT_BYTES == GLOO_BYTES
    link = Link(workers=2, round_s=1.0)
    assert cost.round_s(link, 16, GLOO_BYTES // 16) == 1.0
    assert cost.round_s(link, 16, GLOO_BYTES // 16 + 1) == 15.0


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_the_slower_of_two_has_a_closed_form(sigma: float) -> None:
    """E max of two log-normals = 2 exp(sigma^2 / 2) Phi(sigma / sqrt 2); the integral's grid allows 1e-5."""
    phi = 0.5 * math.erfc(-sigma / 2.0)
    assert skew.slowest(2, sigma) == pytest.approx(2 * math.exp(sigma**2 / 2) * phi, rel=1e-5)
    assert skew.slowest(1, sigma) == pytest.approx(skew.average(sigma), rel=1e-5)


def test_the_slowest_of_more_workers_is_slower() -> None:
    found = [skew.slowest(n, 0.1) for n in (1, 8, 64, 1024, 100_000)]
    assert found == sorted(found) and found[1] == pytest.approx(1.155, abs=2e-3)
    assert skew.slowest(1000, 0.0) == 1.0


def test_a_ring_sends_nearly_two_models_whatever_the_number_of_workers() -> None:
    way = FirstOrder("ddp", 1_000_000)
    assert sent_bytes(way, 2, "float32") == 4e6
    assert sent_bytes(way, 1000, "float32") == pytest.approx(8e6, rel=2e-3)
    assert sent_bytes(FirstOrder("diloco", 1_000_000, 50), 2, "float32") == 4e6 / 50
    fast, slow = (step_s(way, SHAPE, JOB, MACHINE, Link(workers=2, round_s=0.0, rate=r)) for r in (1e9, 1e6))
    assert slow - fast == pytest.approx(4e6 / 1e6 - 4e6 / 1e9)


def test_lanes_pay_only_where_every_probe_has_to_be_drawn_again() -> None:
    job = replace(JOB, workers=64, probes=64, dtype="float32")
    assert advice.splits(SHAPE, job, MACHINE, noise_ratio=10.0)[0].job.lanes == 1
    slow = MACHINE.model_copy(update={"noise": {"rademacher/float32": Pace(pair=1e8, fold=1e6, seed=1e6)}})
    best = advice.splits(SHAPE, replace(job, coupling="independent"), slow, noise_ratio=10.0)[0].job
    assert best.lanes > 1 and best.probes * best.lanes == 64


def test_the_planner_says_plainly_who_is_faster() -> None:
    fast, slow = (Link(workers=2, round_s=0.0, rate=rate) for rate in (1e9, 1e2))
    quick = advice.verdicts(SHAPE, JOB, MACHINE, link=fast)
    assert all(v.slower > 1 for v in quick) and "zodist loses here" in advice.sentence(quick, 32)
    poor = {v.way.name: v for v in advice.verdicts(SHAPE, JOB, MACHINE, link=slow)}
    assert poor["ddp"].slower < 1
    none = advice.verdicts(SHAPE, JOB, MACHINE, link=fast, room=1.0)
    assert advice.sentence(none, 32).startswith("zodist is the fastest here") and not any(
        v.fits for v in none
    )
    assert {way.name for way in ways(SHAPE)} == set(poor)


def test_a_model_takes_the_smallest_group_of_devices_that_holds_it() -> None:
    shape, job = read_shape("opt-175b"), Job(batch=1, tokens=32, law="rademacher", dtype="bfloat16")
    found = fit(shape, job, REFERENCE, Machines(nodes=2, gpus=8, memory=80e9))
    assert found.job.shard == 8 and found.job.replicas == 2 and not found.offloaded
    assert found.bytes_ <= 0.9 * 80e9 and worker_bytes(shape, job, 1, held=1 / 4) > 0.9 * 80e9
    alone = fit(shape, job, REFERENCE, Machines(nodes=1, gpus=1, memory=24e9))
    assert alone.offloaded and alone.fetch_s == pytest.approx(2 * shape.parameters / 25e9) and alone.pairs > 1
    with pytest.raises(ConfigError, match="one layer of opt-175b"):
        fit(shape, job, REFERENCE, Machines(nodes=1, gpus=1, memory=1e9))


@pytest.mark.parametrize(("name", "expected"), [("mezo", (2, 1)), ("hizoo", (3, 1)), ("prior", (6, 2))])
def test_methods_are_asked_what_they_ask(name: str, expected: tuple[int, int]) -> None:
    assert asked_of(name) == expected


def test_a_calibration_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(path, MACHINE)
    assert read_calibration(path) == MACHINE
    path.write_text(path.read_text().replace('"cores"', '"kernels"'))
    with pytest.raises(ConfigError, match="no calibration of this version"):
        read_calibration(path)
    path.write_bytes(b"\xff" + path.read_bytes())
    with pytest.raises(ConfigError, match="no calibration of this version .the whole file"):
        read_calibration(path)
    with pytest.raises(ConfigError, match="--calibrate"):
        read_calibration(tmp_path / "nowhere.json")


def test_rates_lie_between_the_measured_ones() -> None:
    found = MACHINE.model_copy(update={"products": {"float32": {10: 1e9, 1000: 3e9}}})
    assert found.rate("float32", 100) == pytest.approx(2e9)
    assert (found.rate("float32", 1), found.rate("float32", 10**6)) == (1e9, 3e9)
    with pytest.raises(ConfigError, match="no rates of gaussian"):
        found.pace("gaussian", "float32")


def test_predictions_stand_beside_measured_cells(tmp_path: Path) -> None:
    shape = {name: getattr(SHAPE, name) for name in Shape.__slots__}
    own = {"noise": "rademacher", "coupling": "walsh", "points": 2, "rounds": 1, "shape": shape, "beside": 2}
    predicted = cost.cost(SHAPE, JOB, MACHINE)
    phases = {
        name: {"median": getattr(predicted, name)}
        for name in ("forward_s", "wait_s", "exchange_s", "update_s")
    }
    cell = {"system": "zodist", "model": "made up", "mbit": 8.0, "delay_ms": 0.0, "dtype": "float32"}
    cell |= {"workers": 2, "probes": 4, "batch": 5, "tokens": 10, "link": {"round_s": 0.02, "rate": 1e6}}
    lines = [
        {**cell, **own, **phases, "step_s": {"median": 1.25 * predicted.step_s}},
        {**cell, **own, "system": "ddp", "step_s": {"median": 1.0}},
        {**cell, **own, "skipped": "too long", "bound_s": 100.0},
    ]
    (tmp_path / "cells.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, other = compare(measured_cells(tmp_path), MACHINE)
    assert found.error == pytest.approx(-0.2) and found.predicted == pytest.approx(found.measured)
    ring = 2 * SHAPE.parameters / 2 * 4 / 1e6
    assert other.predicted_s > ring and other.predicted == ()
    assert summary([found], within=0.21) == "zodist: 1 of 1 cells within 21%; median error 20%, largest 20%"
    assert summary([found, other]).count("cells within 20%") == 2
    with pytest.raises(ConfigError, match="no measured cell"):
        measured_cells(tmp_path / "none")


def test_the_command_answers_people_and_programs(tmp_path: Path) -> None:
    tiny("llama-tied").config.save_pretrained(tmp_path)
    options = ["--workers", "8", "--probes", "64", "--gpus", "8", "--gpu-memory", "80"]
    answer = CliRunner().invoke(app, ["plan", str(tmp_path), *options, "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.output)
    assert found["step"]["payload"] == 7 * 8 * 16 and found["layout"]["job"]["shard"] == 1
    assert any("not measured" in note for note in found["notes"])  # the rates are constants, and it says so
    shown = CliRunner().invoke(app, ["plan", str(tmp_path), *options])
    assert "replay share" in shown.output and "assumed" in shown.output and "zodist" in shown.output


def test_nothing_to_plan_is_a_sentence() -> None:
    answer = CliRunner().invoke(app, ["plan"])
    assert isinstance(answer.exception, ConfigError) and "name a MODEL" in str(answer.exception)
