"""Weights read in parts: from safetensors and from checkpoints of torch.save, in one file or several."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from runs import Place, finish, make_place
from safetensors.torch import load_file, save_file

from zodist.errors import ModelError
from zodist.shard.files import WeightFiles

NUMBERS = torch.arange(35.0).view(5, 7) / 8  # exact in bfloat16 up to 32
Save = Callable[[Mapping[str, torch.Tensor], Path], None]


def safe(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    save_file(dict(tensors), path)


def pickled(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    torch.save(OrderedDict(tensors), path)


KINDS = [("model.safetensors", safe), ("pytorch_model.bin", pickled)]
both = pytest.mark.parametrize(("single", "save"), KINDS, ids=["safetensors", "bin"])


def part(files: WeightFiles, name: str, first: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
    out = torch.empty(stop - first, dtype=dtype)
    files.read_(name, (5, 7), first, out)
    return out


@both
def test_only_the_wanted_part_of_a_tensor_is_given(tmp_path: Path, single: str, save: Save) -> None:
    save({"other": torch.ones(3), "decoder.weight": NUMBERS}, tmp_path / single)
    files = WeightFiles(tmp_path, "tiny", "model")
    for first, stop in [(0, 35), (3, 5), (6, 8), (20, 35), (35, 35)]:
        for dtype in (torch.float32, torch.bfloat16):
            got = part(files, "model.decoder.weight", first, stop, dtype)
            assert torch.equal(got, NUMBERS.view(-1)[first:stop].to(dtype))
    with pytest.raises(ModelError, match=r"shape \(5, 7\) in the files and \(7, 5\)"):
        files.read_("decoder.weight", (7, 5), 0, torch.empty(1))
    with pytest.raises(ModelError, match="no weights for 'lm_head.weight'"):
        part(files, "lm_head.weight", 0, 1, torch.float32)


def test_a_tensor_of_several_pieces_is_whole(tmp_path: Path) -> None:
    numbers = torch.arange(3 << 20, dtype=torch.float32)  # 12 MiB
    save_file({"a": torch.ones(1), "w": numbers}, tmp_path / "model.safetensors")
    out = torch.empty(numbers.numel() - 5)
    WeightFiles(tmp_path, "long", "").read_("w", tuple(numbers.shape), 5, out)
    assert torch.equal(out, numbers[5:])


@both
def test_an_index_says_which_file_has_a_tensor(tmp_path: Path, single: str, save: Save) -> None:
    stem, _, suffix = single.rpartition(".")
    names = [f"{stem}-0000{n}-of-00002.{suffix}" for n in (1, 2)]
    save({"a": NUMBERS}, tmp_path / names[0])
    save({"b": NUMBERS + 1}, tmp_path / names[1])
    index = {"metadata": {}, "weight_map": {"a": names[0], "b": names[1]}}
    (tmp_path / f"{single}.index.json").write_text(json.dumps(index))
    files = WeightFiles(tmp_path, "tiny", "")
    assert torch.equal(part(files, "b", 0, 35, torch.float32), NUMBERS.view(-1) + 1)
    assert torch.equal(part(files, "a", 30, 35, torch.float32), NUMBERS.view(-1)[30:])


def test_safetensors_come_before_a_bin_beside_them(tmp_path: Path) -> None:
    safe({"a": NUMBERS}, tmp_path / "model.safetensors")
    pickled({"a": -NUMBERS}, tmp_path / "pytorch_model.bin")
    assert part(WeightFiles(tmp_path, "tiny", ""), "a", 1, 2, torch.float32).item() == 0.125


class _Trap:
    """What must not be made when a file is read."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("trap"),))


def test_files_that_cannot_be_read_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="neither model.safetensors nor pytorch_model.bin"):
        WeightFiles(tmp_path, "tiny", "")
    torch.save({"a": _Trap()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pytorch_model.bin cannot be read in parts") as error:
        WeightFiles(tmp_path, "tiny", "")
    assert not Path("trap").exists() and "\n" not in str(error.value)
    torch.save({"a": NUMBERS}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match="save_pretrained") as error:
        WeightFiles(tmp_path, "tiny", "")
    assert "\n" not in str(error.value)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(ModelError, match="model.safetensors cannot be read in parts .*header"):
        WeightFiles(tmp_path, "tiny", "")
    safe({"a": NUMBERS}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ModelError, match="it ends within 'a'"):
        part(WeightFiles(tmp_path, "tiny", ""), "a", 0, 35, torch.float32)


def test_a_flipped_bit_of_a_header_is_one_sentence_or_none(tmp_path: Path) -> None:
    """Names, shapes and places: what they become is refused, or is still read."""
    path = tmp_path / "model.safetensors"
    safe({"a": NUMBERS, "b": NUMBERS + 1}, path)
    whole = path.read_bytes()
    for at in range(8 + int.from_bytes(whole[:8], "little")):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with suppress(ModelError):
                files = WeightFiles(tmp_path, "tiny", "")
                for name in "ab":
                    part(files, name, 0, 35, torch.float32)


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype":"F32","shape":[5,7],"data_offsets":[-999,-859]}',
        '{"dtype":"F32","shape":[5,7],"data_offsets":[36893488147419103232,36893488147419103372]}',
        '{"dtype":"F32","shape":[5,7],"data_offsets":[0,139]}',
        '{"dtype":"F32","shape":[5,7],"data_offsets":[0.0,140.0]}',
        '{"dtype":"F32","shape":[5,7]}',
        '{"dtype":"F32","shape":7,"data_offsets":[0,140]}',
        '{"dtype":["F32"],"shape":[5,7],"data_offsets":[0,140]}',
        "[]",
        pytest.param("[" * 20000 + "]" * 20000, id="deep"),
    ],
)
def test_a_header_that_cannot_be_is_refused_when_the_file_is_opened(tmp_path: Path, entry: str) -> None:
    header = f'{{"a":{entry}}}'.encode()
    content = len(header).to_bytes(8, "little") + header + bytes(140)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="model.safetensors cannot be read in parts") as error:
        WeightFiles(tmp_path, "tiny", "")
    assert "Invalid argument" not in str(error.value)


@pytest.mark.parametrize(
    "index", ["[", "[]", '{"weight_map":[1]}', pytest.param("[" * 20000, id="deep"), '{"weight_map":{"a":1}}']
)
def test_an_index_that_is_none_is_one_sentence(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match="cannot be read in parts"):
        part(WeightFiles(tmp_path, "tiny", ""), "a", 0, 1, torch.float32)


@pytest.mark.slow
def test_a_run_from_a_bin_checkpoint_is_the_run_from_safetensors(tmp_path: Path) -> None:
    def digests(place: Place, *overrides: str) -> list[str]:
        finish(place, 2, "run.steps=5", "shard.kind=fsdp", *overrides)
        return [line["digest"] for line in place.lines("metrics.jsonl") if "digest" in line]

    place = make_place(tmp_path)
    want = digests(place)
    saved = tmp_path / "model" / "model.safetensors"
    pickled(load_file(saved), tmp_path / "model" / "pytorch_model.bin")
    saved.unlink()
    (place.run / "journal.jsonl").unlink()
    for snapshot in place.run.glob("snapshot-*"):
        snapshot.unlink()
    (place.run / "metrics.jsonl").unlink()
    assert digests(place) == want and want
