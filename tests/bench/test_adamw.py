"""The first-order reference: a run's own data, parameters and evaluation, and a loss that falls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import Place, make_place
from typer.testing import CliRunner

from zodist.__main__ import app
from zodist.bench import adamw
from zodist.config import load as load_config
from zodist.directions import storage_of
from zodist.errors import ZodistError
from zodist.models import params
from zodist.run import load, load_parts, train

STILL = ("rule.lr=1e-12", "method.eps=1e-4", "run.steps=5", "exchange.digest_every=0")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("adamw"))


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_step_sees_the_examples_of_all_probes_and_lanes_of_a_zodist_step(place: Place, lanes: int) -> None:
    """Neither moves here, so the loss of a step is that of its examples alone."""
    config = load_config(
        place.config, [*STILL, f"batch.data_lanes={lanes}", f"run.folder={place.folder}/still{lanes}"]
    )
    ours = train(config, quiet=True)
    lines = [json.loads(line) for line in (ours.folder / "metrics.jsonl").read_text().splitlines()]
    reference = adamw.train(config, lr=1e-12)
    assert reference.examples == 3 * 4 * lanes
    np.testing.assert_allclose(
        reference.losses, [line["loss"] for line in lines if "slope" in line], rtol=1e-4
    )
    assert len({round(loss, 4) for loss in reference.losses}) == 5
    assert reference.before == ours.before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_its_loss_falls_below_where_a_run_starts(place: Place, dtype: str) -> None:
    config = load_config(place.config, ["run.steps=30", f"model.dtype={dtype}"])
    found = adamw.train(config, lr=3e-3)
    assert found.after.loss < 0.5 * found.before.loss
    assert list(found.validation) == [0, 10, 20, 30]
    assert found.validation[30].loss < found.validation[0].loss


@pytest.mark.parametrize(
    ("overrides", "count"),
    [(["model.train=norm"], 5), (["model.adapter=lora"], 8), (["model.adapter=prefix"], 1)],
)
def test_what_the_run_trains_moves_and_nothing_else(place: Place, overrides: list[str], count: int) -> None:
    if "norm" not in overrides[0]:
        pytest.importorskip("peft")
    config = load_config(place.config, ["run.steps=10", "output.evaluate_every=0", *overrides])
    base, loaded = load(config), load(config)
    parts = load_parts(config, 1, loaded)
    trainer = adamw.AdamW(parts, lr=3e-3, steps=10)
    losses = [trainer.advance() for _ in range(10)]
    trainer.close()
    assert min(losses[-3:]) < losses[0]
    trained = {p.storage for p in params.collect(parts.model, config.model.train)}
    assert len(trained) == count
    model = getattr(parts.model, "base", parts.model)
    held = dict(model.named_parameters())
    moved = 0
    for name, weight in base.model.named_parameters():
        own = held[name] if name in held else held[name.replace(".weight", ".base_layer.weight")]
        equal = torch.equal(own, weight)
        assert equal == (storage_of(own) not in trained), name
        moved += not equal
    assert moved == (count if overrides == ["model.train=norm"] else 0)
    assert not any(w.requires_grad and w.grad is not None for w in parts.model.parameters())


def test_pieces_of_a_batch_give_the_gradient_of_the_whole(place: Place) -> None:
    found = []
    for pieces in (0, 5):
        config = load_config(place.config, ["run.steps=3", f"batch.examples_per_forward={pieces}"])
        found.append(adamw.train(config, lr=1e-3))
    np.testing.assert_allclose(found[0].losses, found[1].losses, rtol=1e-4)


def test_a_rate_that_ruins_the_weights_is_a_sentence(place: Place) -> None:
    with pytest.raises(ZodistError, match=r"the loss is nan; lower --lr, which is 1e\+30"):
        adamw.train(load_config(place.config, ["run.steps=5"]), lr=1e30)


def test_the_command_prints_what_was_trained(place: Place, tmp_path: Path) -> None:
    arguments = [
        "bench",
        "adamw",
        str(place.config),
        "output.evaluate_every=0",
        "--lr",
        "3e-3",
        "--steps",
        "8",
        "--json",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["losses"]) == 8 and found["examples"] == 12 and found["lr"] == 3e-3
    assert found["after"]["accuracy_error"] is not None
