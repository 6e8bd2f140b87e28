"""The CUDA kernels give the CPU kernels' bits: in Triton's interpreter everywhere, and on a GPU where there is one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import make_place
from triton_matrix_cases import CASES

from zodist.config import load
from zodist.errors import ModelError
from zodist.kernels.device import HOST, kernels_of
from zodist.models import device_of
from zodist.run import replay, train

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton: pip install triton"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory) -> dict[str, str]:
    """What went wrong in each case: run in a process of its own, since Triton is told to interpret when it is imported."""
    out = tmp_path_factory.mktemp("triton") / "found.json"
    program = str(Path(__file__).parents[1] / "triton_cases.py")
    env = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, program, str(out)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernels_give_the_bits_of_the_cpu(name, interpreted):
    assert not interpreted[name], interpreted[name]


@needs_gpu
@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_kernels_on_the_gpu_give_the_bits_of_the_cpu(name):
    CASES[name](torch.device("cuda", torch.cuda.current_device()))


@needs_gpu
@needs_triton
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("method", ["mezo", "zodist"])
def test_a_run_on_the_gpu_is_replayed_on_the_cpu_to_the_bit(method, dtype, tmp_path):
    """Losses are the GPU's own; all that follows from them is equal."""
    place = make_place(tmp_path)
    own = ["method.examples=3"] if method == "zodist" else ["method.probes=2"]
    settings = ["run.steps=3", "model.device=cuda", f"model.dtype={dtype}", f"method.name={method}", *own]
    config = load(place.config, settings)
    assert train(config, quiet=True).digest == replay(place.run).digest


def test_a_device_that_is_absent_is_refused_and_auto_takes_what_there_is():
    assert device_of("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        assert device_of("auto", count) == device_of("cuda") == torch.device("cuda", 0)
    else:
        assert device_of("auto") == torch.device("cpu")
        with pytest.raises(
            ModelError, match="model.device = 'cuda', but torch .* finds no such device here; set"
        ):
            device_of("cuda")


def test_each_device_has_its_kernels():
    assert kernels_of(torch.device("cpu")) is HOST
    with pytest.raises(ModelError, match="no kernels for 'meta' devices; set model.device"):
        kernels_of(torch.device("meta"))
