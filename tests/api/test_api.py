"""Runs from Python: the bits of the command line, any module with a loss, and nothing else in the process touched."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from models import batch as rows_of
from models import tiny
from pictures import loss, net, pictures
from runs import CONTEXT, Place, finish, make_place

import zodist
from zodist.api.module import ModuleEvaluator
from zodist.config import load
from zodist.directions import Combination, Dense
from zodist.errors import ConfigError, JournalError, ModelError, TaskError
from zodist.evaluator import Evaluator
from zodist.models import load_model, params
from zodist.noise import GAUSSIAN, RADEMACHER
from zodist.run import replay, task_of

TRAIN, HELD = pictures(20, 1), pictures(4, 2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def digest(model: torch.nn.Module) -> str:
    return f"{params.digest(params.collect(model)):016x}"


def run(model: torch.nn.Module, **wanted: Any) -> zodist.Tuned:
    return zodist.fine_tune(model, loss, TRAIN, **({"steps": 12, "lr": 3e-3} | wanted))


def test_equal_settings_give_the_command_lines_journal_and_metrics_to_the_byte(tmp_path: Path) -> None:
    place: Place = make_place(tmp_path)
    finish(place, 1)
    model, _ = load_model(str(place.folder / "model"), torch.float32, "sdpa")
    tuned = zodist.fine_tune(
        model,
        place.folder / "task.toml",
        steps=20,
        lr=1e-3,
        batch_size=3,
        folder=tmp_path / "python",
        settings={
            "method.probes": 4,
            "method.eps": 1e-2,
            "exchange.digest_every": 5,
            "output.evaluate_every": 10,
            "output.snapshot_every": 7,
            **{f"task.{split}": n for split, n in (("train", 48), ("validation", 12), ("test", 20))},
        },
    )
    for name in ("journal.jsonl", "metrics.jsonl", "snapshot-00000020.safetensors"):
        assert (tmp_path / "python" / name).read_bytes() == place.file(name), name
    assert tuned.digest == digest(model) == place.digest()
    assert tuned.steps == 20 and tuned.forwards == 160 and tuned.before and tuned.after
    assert tuned.after.accuracy is not None
    # The model said where it came from, so the command line finds it again.
    assert replay(tmp_path / "python", tmp_path / "out").digest == tuned.digest
    model, tokenizer = load_model(str(place.folder / "model"), torch.float32, "sdpa")
    task, settings = task_of(load(place.config), tokenizer), {"method.probes": 4, "method.eps": 1e-2}
    stop = [lambda taken: taken.step == 2]
    given = zodist.fine_tune(model, task, steps=20, lr=1e-3, batch_size=3, settings=settings, callbacks=stop)
    assert given.losses == tuned.losses[:2] and given.before == tuned.before


@pytest.mark.parametrize("method", ["mezo", "fzoo", "hizoo", "lozo", "pgap", "prior", "ldsd", "tezo"])
def test_a_net_learns_and_its_journal_alone_rebuilds_it(method: str, tmp_path: Path) -> None:
    model, base = net(), net()
    settings = {"method.eps": 1e-2} | ({"method.rank": 2} if method == "pgap" else {})
    lr = {"ldsd": 1e-3}.get(method, 5e-3)
    tuned = run(
        model,
        method=method,
        steps=40,
        lr=lr,
        folder=tmp_path,
        validation=HELD,
        settings={**settings, "output.keep": 0},
    )
    assert tuned.before and tuned.after and tuned.after.examples == 64
    assert tuned.after.loss < tuned.before.loss
    assert zodist.rebuild(base, tmp_path) == zodist.Rebuilt(40, tuned.digest, None, None)
    assert digest(base) == digest(model) == tuned.digest
    trained = model.state_dict()
    assert all(
        torch.equal(value, trained[name]) for name, value in base.state_dict().items()
    )  # running means as well


@pytest.mark.parametrize("dtype, master", [(torch.bfloat16, "none"), (torch.float16, "float32")])
def test_sixteen_bit_weights_and_chosen_parameters(dtype: torch.dtype, master: str, tmp_path: Path) -> None:
    model, base = net(dtype), net(dtype)
    tuned = run(model, train=r"^5\.", folder=tmp_path, settings={"model.master": master})
    assert zodist.rebuild(base, tmp_path).digest == tuned.digest
    before, after = net(dtype).state_dict(), model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"5.weight", "5.bias"}
    assert all(torch.equal(value, after[name]) for name, value in base.state_dict().items())


def test_what_the_caller_has_frozen_stays() -> None:
    chosen, frozen = net(), net()
    for name, p in frozen.named_parameters():
        p.requires_grad_(name.startswith("5."))
    assert run(frozen).digest == run(chosen, train=r"^5\.").digest
    assert params.fingerprint(frozen) == params.fingerprint(chosen)
    assert run(net().requires_grad_(False)).digest == run(net()).digest


def test_a_folder_changes_no_bit_and_without_one_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = run(net(), folder=tmp_path / "kept")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    held = run(net())
    assert held.digest == kept.digest and held.losses == kept.losses and held.folder is None
    assert not list((tmp_path / "empty").iterdir())


def test_an_own_loop_a_callback_and_a_resumed_run_take_the_same_steps(tmp_path: Path) -> None:
    whole, model = run(net()), net()
    with zodist.Trainer(model, loss, TRAIN, steps=12, lr=3e-3, validation=HELD) as trainer:
        first = trainer.step()
        assert first and (first.step, first.loss) == (1, whole.losses[0])
        seen = [first, *trainer]
        assert trainer.step() is None and trainer.evaluate() == trainer.result().after
    assert [taken.loss for taken in seen] == whole.losses and digest(model) == whole.digest
    told: list[int] = []
    stop = [lambda taken: told.append(taken.step), lambda taken: taken.step == 5]
    part = run(net(), folder=tmp_path, callbacks=stop)
    assert part.steps == 5 and told == [1, 2, 3, 4, 5] and part.losses == whole.losses[:5]
    with zodist.Trainer(base := net(), loss, TRAIN, steps=12, lr=3e-3, folder=tmp_path) as trainer:
        assert digest(base) == part.digest  # taken up from the journal before anything is asked for
        rest = [taken.loss for taken in trainer]
        assert rest == whole.losses[5:] and trainer.result().digest == whole.digest
    assert run(net(), folder=tmp_path).history == ()


def process_state() -> list[object]:
    """What a run could disturb outside its model and folder."""
    return [
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[index, union-attr]
        random.getstate(),
        numba.get_num_threads(),  # first: where its threads are OpenMP's, starting them sets the number for everybody
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        dict(os.environ),
        os.getcwd(),
    ]


def test_two_runs_in_turns_are_what_each_is_alone_and_the_process_is_as_before() -> None:
    alone = [run(net()).digest, run(net(), method="fzoo", seed=3).digest]
    models = [net(), net()]
    models[1][5].train(False)  # type: ignore[index]
    modes = [[module.training for module in model.modules()] for model in models]
    before = process_state()
    with (
        zodist.Trainer(models[0], loss, TRAIN, steps=12, lr=3e-3) as one,
        zodist.Trainer(models[1], loss, TRAIN, steps=12, lr=3e-3, method="fzoo", seed=3) as two,
    ):
        while one.step() and two.step():
            pass
        assert [one.result().digest, two.result().digest] == alone
    assert process_state() == before
    assert [[module.training for module in model.modules()] for model in models] == modes
    assert all(p.requires_grad for model in models for p in model.parameters())


def test_a_trained_net_still_learns_by_backpropagation() -> None:
    model = net()
    run(model)
    loss(model, TRAIN[0]).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_gradients_inside_a_loss_work_and_batches_may_come_from_an_iterator() -> None:
    """A loss about the model's own derivative, as physics has it: dy/dx = cos x."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))

    def residual(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(model(x).sum(), x)
        return ((slope - x.cos()) ** 2).mean()

    batches = (torch.linspace(-1, 1, 33)[:, None] + shift / 100 for shift in range(4))
    settings = {"method.probes": 8, "method.eps": 1e-2}
    tuned = zodist.fine_tune(model, residual, batches, steps=60, lr=1e-2, settings=settings)
    assert tuned.losses[-1] < 0.5 * tuned.losses[0]


def _worker(worker: int, workers: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=worker, world_size=workers)
    torch.set_num_threads(1)
    tuned = zodist.fine_tune(
        net(),
        loss,
        TRAIN,
        steps=12,
        lr=3e-3,
        validation=HELD,
        folder=folder / "run",
        settings={"method.probes": 3},
    )
    assert torch.distributed.is_initialized()
    torch.distributed.barrier()
    (folder / f"worker-{worker}").write_text(f"{tuned.digest} {tuned.workers} {tuned.after} {tuned.sent > 0}")


def test_two_workers_of_torch_distributed_give_the_bits_of_one(tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    alone = run(net(), folder=tmp_path / "alone", validation=HELD, settings={"method.probes": 3})
    processes = [CONTEXT.Process(target=_worker, args=(w, 2, tmp_path), daemon=True) for w in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == (
        tmp_path / "alone" / "journal.jsonl"
    ).read_bytes()
    for w in range(2):
        assert (tmp_path / f"worker-{w}").read_text() == f"{alone.digest} 2 {alone.after} True"


@pytest.mark.parametrize("family", ["llama-tied", "gpt2"])
def test_the_evaluator_of_modules_agrees_with_that_of_language_models(family: str) -> None:
    """To rounding: the other one stacks its points, and never builds a whole perturbed model."""
    model, rows = tiny(family), rows_of()
    held = params.collect(model)
    laws = {p.id: Dense(RADEMACHER if p.id % 2 else GAUSSIAN, coded=True) for p in held}
    points = [Combination.of((7 << 16, 1e-2)), Combination.of((7 << 16, -1e-2)), Combination.of()]
    fast = Evaluator(model, held, laws)
    expected = fast.losses(points, [rows])
    fast.close()

    def measure(model: Any, rows: Any) -> torch.Tensor:
        found = model(
            rows.input_ids,
            attention_mask=rows.attention_mask,
            position_ids=rows.position_ids,
            logits_to_keep=1,
        )
        return rows.losses(found.logits)

    before = params.fingerprint(model)
    plain = ModuleEvaluator(model, held, laws, measure, parallel=False)
    found = [plain.mean(point, [rows]) for point in points]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert abs(found[0] - found[1]) > 1e-4 and params.fingerprint(model) == before


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="zodist.fine_tune: .*no key 'epss'; did you mean 'eps'"):
        run(net(), settings={"method.epss": 1})
    with pytest.raises(ConfigError, match="a key reads 'section.key'"):
        run(net(), settings={"eps": 1})
    with pytest.raises(ConfigError, match="follows from the model and the other arguments"):
        run(net(), settings={"model.dtype": "float16"})
    with pytest.raises(ConfigError, match="'batch.cache_frozen', which has no effect"):
        run(net(), settings={"batch.cache_frozen": True})
    with pytest.raises(ConfigError, match="rule.lr = -1.0 must be > 0"):
        run(net(), lr=-1.0)
    with pytest.raises(TaskError, match="data holds no batch"):
        zodist.fine_tune(net(), loss, [], steps=1, lr=1e-3)
    with pytest.raises(TaskError, match="data is NoneType"):
        zodist.fine_tune(net(), loss, steps=1, lr=1e-3)
    with pytest.raises(ModelError, match=r"returned numbers of shape \(2, 3\)"):
        zodist.fine_tune(net(), lambda model, batch: torch.zeros(2, 3), TRAIN, steps=1, lr=1e-3)
    with pytest.raises(ModelError, match="'zodist' gives every example a direction of its own"):
        run(net(), method="zodist")
    with pytest.raises(TaskError, match="pass tokenizer="):
        zodist.fine_tune(tiny("llama-tied"), "sst2", steps=1, lr=1e-3)
    with pytest.raises(ConfigError, match="a task brings its own data"):
        zodist.fine_tune(tiny("llama-tied"), "sst2", TRAIN, steps=1, lr=1e-3)


def test_another_base_other_data_and_the_command_line_are_refused_by_name(tmp_path: Path) -> None:
    model = net()
    run(model, folder=tmp_path)
    with pytest.raises(ModelError, match="has fingerprint .* began with"):
        zodist.rebuild(copy.deepcopy(model), tmp_path)
    with pytest.raises(JournalError, match="model.fingerprint is .* there, .* here"):
        run(model, folder=tmp_path)
    with pytest.raises(JournalError, match="task.fingerprint is"):
        zodist.fine_tune(net(), loss, TRAIN[1:], steps=12, lr=3e-3, folder=tmp_path)
    with pytest.raises(ModelError, match="'python:Sequential' was made in Python .* zodist.rebuild"):
        replay(tmp_path)
