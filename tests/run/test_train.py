"""Whole runs of real worker processes over gloo: the world size, a crash and a resumption change no bit."""

from __future__ import annotations

import os
import random
import subprocess
import time
from contextlib import contextmanager

import pytest
from runs import finish, launch, make_place, wait_for

from zodist.journal import inspect
from zodist.run.replay import replay

FILES = ("journal.jsonl", "metrics.jsonl", "snapshot-00000020.safetensors")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run of one worker."""
    place = make_place(tmp_path_factory.mktemp("reference"))
    finish(place)
    return place


def again(reference, tmp_path):
    """The same run in a folder of its own: only run.folder differs."""
    return f"run.folder={tmp_path / 'run'}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_world_sizes_give_the_same_files_to_the_bit(dtype, tmp_path):
    """4 probes on 1, 2, 3 and 4 workers: weights (snapshot), journal and metrics are equal."""
    place = make_place(tmp_path)
    folders = []
    for workers in (1, 2, 3, 4):
        folders.append(tmp_path / f"run-{workers}")
        finish(place, workers, f"model.dtype={dtype}", f"run.folder={folders[-1]}")
    for name in FILES:
        contents = [(folder / name).read_bytes() for folder in folders]
        assert all(content == contents[0] for content in contents), name


def test_data_lanes_and_pieces_keep_the_bits_too(tmp_path):
    """3 probes, 2 lanes each, in pieces of 2 examples, momentum, a master copy; 1 and 4 workers."""
    place = make_place(tmp_path)
    settings = ("method.probes=3", "batch.data_lanes=2", "batch.examples_per_forward=2", "rule.name=momentum")
    settings += ("model.dtype=bfloat16", "model.master=float32", "rule.lr=1e-3")
    finish(place, 1, *settings, f"run.folder={tmp_path / 'a'}")
    finish(place, 4, *settings, f"run.folder={tmp_path / 'b'}")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_timings_tell_forwards_from_the_exchange(reference):
    """Seconds of worker 0 since its start, so that two lines give what lies between them."""
    lines = [line for line in reference.lines("timings.jsonl") if "trained_s" in line]
    for name in ("forward_s", "gather_s", "update_s"):
        values = [line[name] for line in lines]
        assert values == sorted(values) and values[0] >= 0
    # The rest of a step is the journal.  Figures are rounded to four digits.
    phases = [line["forward_s"] + line["gather_s"] + line["update_s"] for line in lines]
    assert all(0 < told <= line["trained_s"] + 2e-4 for told, line in zip(phases, lines, strict=True))


def test_training_lowers_the_loss_by_more_than_noise_explains(reference, tmp_path):
    finish(reference, 2, again(reference, tmp_path), "run.steps=150", "output.evaluate_every=0")
    scores = [line for line in inspect(tmp_path / "run")["evaluations"] if line["split"] == "test"]
    first, last = scores[0], scores[-1]
    assert last["step"] == 150
    assert first["loss"] - last["loss"] > 4 * (first["loss_error"] ** 2 + last["loss_error"] ** 2) ** 0.5


@pytest.mark.parametrize("trial", range(20))
def test_a_killed_run_ends_in_the_same_bits(reference, tmp_path, trial):
    """SIGKILL to all workers at a seeded random moment, then the same command with another number of workers."""
    moment = random.Random(trial)
    workers, then = moment.choice([(1, 1), (1, 2), (2, 1), (2, 2), (1, 3)])
    folder = again(reference, tmp_path)
    journal = tmp_path / "run" / "journal.jsonl"
    begun = launch(reference, workers, folder)
    if trial % 4:
        wait_for(lambda: journal.exists() or begun.processes[0].exitcode is not None)
    time.sleep(moment.uniform(0.0, 1.2))
    begun.kill()
    finish(reference, then, folder)
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == reference.file(name), name


def test_a_killed_worker_is_named_by_the_survivor_and_the_run_resumes(reference, tmp_path):
    folder = again(reference, tmp_path)
    begun = launch(reference, 2, folder)
    wait_for(lambda: (tmp_path / "run" / "journal.jsonl").exists())
    begun.processes[1].kill()
    codes = begun.wait()
    if codes[0] != 0:  # else it had finished first
        assert codes[0] == 2 and "start the run again" in begun.error(0)
    finish(reference, 1, folder)
    assert (tmp_path / "run" / FILES[0]).read_bytes() == reference.file(FILES[0])


def test_a_flipped_bit_is_found_and_its_worker_named(reference, tmp_path):
    """One bit of one weight of worker 1 flips after step 3; digests are compared after step 5."""
    folder = again(reference, tmp_path)
    begun = launch(reference, 3, folder, flip=(1, 3))
    assert begun.wait() == [2, 2, 2]
    assert all("after step 5 the weights of worker 1 differ" in begun.error(w) for w in range(3))
    finish(reference, 2, folder)
    assert (tmp_path / "run" / FILES[2]).read_bytes() == reference.file(FILES[2])


def test_a_longer_run_goes_on_from_a_shorter_one(reference, tmp_path):
    finish(reference, 1, again(reference, tmp_path), "run.steps=8")
    finish(reference, 1, again(reference, tmp_path))
    assert (tmp_path / "run" / FILES[0]).read_bytes() == reference.file(FILES[0])
    assert (tmp_path / "run" / FILES[2]).read_bytes() == reference.file(FILES[2])


def test_fewer_steps_than_the_journal_holds_are_refused(reference, tmp_path):
    finish(reference, 1, again(reference, tmp_path), "run.steps=8")
    begun = launch(reference, 1, again(reference, tmp_path), "run.steps=5")
    assert begun.wait() == [2]
    assert "holds 8 steps already, run.steps = 5" in begun.error()


def test_another_setting_for_the_same_folder_is_named(reference, tmp_path):
    finish(reference, 1, again(reference, tmp_path), "run.steps=4")
    begun = launch(reference, 1, again(reference, tmp_path), "rule.lr=0.5")
    assert begun.wait() == [2]
    assert "rule.lr is 0.001 there, 0.5 here" in begun.error()


def test_workers_with_different_settings_do_not_start(reference, tmp_path):
    """Worker 1 is given another seed, as if its host had an old copy of the config."""
    other = tmp_path / "other.toml"
    other.write_text(reference.config.read_text().replace("steps = 20", "steps = 20\nseed = 9"))
    from runs import CONTEXT, Launched, _work

    folder, port = again(reference, tmp_path), 29731
    errors = [tmp_path / "e0", tmp_path / "e1"]
    jobs = [(reference.config, 0), (other, 1)]
    processes = [CONTEXT.Process(target=_work, args=(c, (folder,), w, 2, port, errors[w])) for c, w in jobs]
    for process in processes:
        process.start()
    begun = Launched(processes, errors)
    assert begun.wait() == [2, 2]
    assert "worker 1 is set up for another run than worker 0: seed is 0 there, 9 here" in begun.error(1)


def test_records_are_16_bytes_a_probe_whatever_the_model(tmp_path):
    """Two workers: each sends its half of the probes to the other; the model's size does not enter."""
    sent = {}
    for hidden in (16, 64):
        place = make_place(tmp_path / str(hidden), hidden=hidden)
        for probes in (2, 4, 64):
            folder = tmp_path / f"{hidden}-{probes}"
            settings = (f"method.probes={probes}", f"run.folder={folder}", "run.steps=10", "batch.size=1")
            finish(place, 2, *settings)
            sent[hidden, probes] = inspect(folder)["record_bytes_sent"]
    for probes in (2, 4, 64):
        assert sent[16, probes] == sent[64, probes] == 10 * 16 * probes // 2


@contextmanager
def small_disk(folder, options):
    """A real file system of 64 kB at a folder; skips where one cannot be mounted."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_stops_the_run_and_loses_nothing(reference, tmp_path):
    """The snapshot does not fit, then the disk grows and the run goes on."""
    with small_disk(tmp_path / "run", "size=64k") as small:
        begun = launch(reference, 1, again(reference, tmp_path))
        assert begun.wait() == [2]
        assert "No space left on device" in begun.error() and str(small) in begun.error()
        assert inspect(small)["steps"] == 7  # the first snapshot was due there
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        finish(reference, 1, again(reference, tmp_path))
        assert (small / FILES[0]).read_bytes() == reference.file(FILES[0])
        assert (small / FILES[2]).read_bytes() == reference.file(FILES[2])


def test_a_read_only_folder_is_a_clear_error(reference, tmp_path):
    with small_disk(tmp_path / "run", "ro,size=64k"):
        begun = launch(reference, 1, again(reference, tmp_path))
        assert begun.wait() == [2]
        assert "Read-only file system" in begun.error()


def test_losses_that_are_not_finite_stop_the_run_with_a_sentence(reference, tmp_path):
    """float16 activations overflow when the perturbation is absurd; what was learned before is kept."""
    begun = launch(reference, 1, again(reference, tmp_path), "model.dtype=float16", "method.eps=60000.0")
    assert begun.wait() == [2]
    assert "step 0: no probe has a finite loss" in begun.error()
    assert inspect(tmp_path / "run")["steps"] == 1


def test_replay_rebuilds_the_weights_and_a_folder_that_transformers_loads(reference, tmp_path):
    from transformers import AutoModelForCausalLM

    from zodist.models import params

    rebuilt = replay(reference.run, tmp_path / "out")
    assert rebuilt.verified and rebuilt.steps == 20 and rebuilt.digest == reference.digest()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert f"{params.digest(params.collect(model)):016x}" == rebuilt.digest
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_replay_to_an_earlier_step_has_the_digest_of_that_step(reference):
    wanted = {line["step"]: line["digest"] for line in reference.lines("metrics.jsonl") if "digest" in line}
    assert replay(reference.run, steps=10).digest == wanted[10] != wanted[20]


def test_replay_onto_another_base_model_is_refused(reference, tmp_path):
    from zodist.errors import ModelError

    other = make_place(tmp_path, seed=1)
    with pytest.raises(ModelError, match="has fingerprint .*, the journal in .* began with"):
        replay(reference.run, model=str(other.folder / "model"))
