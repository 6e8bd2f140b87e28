"""Reading data: every format gives the same rows, and a mistake in a file is named."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from films import byte_level, loader, rows, write, write_task

from zodist.errors import TaskError
from zodist.tasks import source as data
from zodist.tasks.lexicon import read as read_lexicon
from zodist.tasks.loading import load_task
from zodist.tasks.task import Task
from zodist.tasks.task_file import built_in, describe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_task(tmp_path)


@pytest.fixture
def load(folder: Path) -> Callable[..., Task]:
    return loader(folder)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl"])
def test_every_format_gives_the_same_task(load: Callable[..., Task], folder: Path, kind: str) -> None:
    expected = load().fingerprint()
    files = {}
    for split, records in (("train", rows(40)), ("validation", rows(52)[40:])):
        path = files[split] = folder / f"other-{split}.{kind}"
        if kind == "parquet":
            pa = pytest.importorskip("pyarrow")
            import pyarrow.parquet

            pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)
        elif kind == "jsonl":
            write(path, records)
        else:
            with path.open("w", newline="", encoding="utf-8-sig") as file:
                out = csv.DictWriter(file, ["sentence", "label"], delimiter="\t" if kind == "tsv" else ",")
                out.writeheader()
                out.writerows(records)
    assert load(files=files).fingerprint() == expected


def test_a_data_set_of_the_hub_library_is_read(load: Callable[..., Task], folder: Path) -> None:
    """`datasets` reads a local folder by the same call as a hub name."""
    data = folder / "set"
    data.mkdir()
    expected = load().fingerprint()
    write(data / "train.jsonl", rows(40))
    write(data / "test.jsonl", rows(52)[40:])
    source = 'files = {train = "train.jsonl", validation = "validation.jsonl"}'
    task = load((source, f'hub = "{data}"\n[splits]\nvalidation = "test"\n'))
    assert task.fingerprint() == expected


def test_labels_may_be_words_numbers_or_truth_values(load: Callable[..., Task], folder: Path) -> None:
    expected = [e.label for e in load().train]
    for values in (("0", "1"), (0.0, 1.0)):
        write(folder / "train.jsonl", [{**row, "label": values[row["label"]]} for row in rows(40)])
        assert [e.label for e in load().train] == expected
    write(folder / "train.jsonl", [{**row, "label": bool(row["label"])} for row in rows(40)])
    assert [e.label for e in load(("0 =", "false ="), ("1 =", "true ="), test=0).train] == expected


def test_the_words_of_the_default_task_are_disjoint_and_balanced() -> None:
    pytest.importorskip("vaderSentiment")
    tokenizer = byte_level()
    settings: dict[str, Any] = {"files": {}, "train": 2000, "validation": 500, "test": 2000, "seed": 0}
    task = load_task("word-feeling", tokenizer, **settings, max_tokens=64)
    assert len(task.train) == 2000 and len(task.validation) == 500 and len(task.test) >= 1000
    assert 0.45 < sum(e.label or 0 for e in task.test) / len(task.test) < 0.55
    texts: dict[str, set[str]] = {}
    for name, split in (("train", [*task.train, *task.validation]), ("test", [*task.test])):
        texts[name] = {str(tokenizer.decode(list(e.tokens))).split()[2] for e in split}
        assert len(texts[name]) == len(split)
    assert not {w[:5] for w in texts["train"]} & {w[:5] for w in texts["test"]}
    assert all(w.isalpha() and w.islower() for w in texts["train"] | texts["test"])


def test_lexicon_families_stay_in_one_split(tmp_path: Path) -> None:
    words = [
        f"{a}{b}{c}xx{end}" for a in "bcdfg" for b in "aeiou" for c in "lmnrs" for end in ("", "ed", "ing")
    ]
    lines = [f"{w}\t{(-1) ** i * (1 + i % 3)}.5\t0.5\t[]" for i, w in enumerate(words)]
    noise = [":-)\t2.0\t0.5\t[]", "Balxx\t3.0\t0.5\t[]", "bland\t0.4\t0.5\t[]"]
    (tmp_path / "vader_lexicon.txt").write_text("\n".join(lines + noise) + "\n", encoding="utf-8")
    found = {split: read_lexicon(tmp_path, split) for split in ("train", "validation")}
    families = {split: {r["word"][:5] for r in records} for split, (records, _) in found.items()}
    assert families["train"] and families["validation"] and not families["train"] & families["validation"]
    for records, numbers in found.values():
        feelings = [r["feeling"] for r in records]
        assert feelings.count("positive") == feelings.count("negative")
        assert [lines[n - 1].split("\t")[0] for n in numbers] == [r["word"] for r in records]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("template =", "templat =", r"films.toml:2: a task has no key 'templat'; did you mean 'template'\?"),
        ('"classification"', '"clasification"', r"films.toml:1: kind = .*did you mean 'classification'\?"),
        ('"classification"', '"text"', r"films.toml:3: a text task has no labels"),
        ('0 = " terrible"', "0 = 3", r"films.toml:4: labels.0 = 3 must be text in quotes"),
        (' great"', ' terrible"', r"films.toml:5: label '1' has the word of label '0'"),
        ('1 = " great"', "", r"films.toml:3: .* needs two labels or more .* has 1"),
        ('1 = " great"', '1 = ""', r"films.toml:5: the word of label '1' is empty"),
        ("{sentence}", "{sentense}", r"names the field 'sentense', .*its fields are sentence, label"),
        ("{sentence}", "{sentence", r"is not a template"),
        ("{sentence}", "{sentence!r}", r"plain \{field\} places"),
        ("{sentence}", "{}", r"plain \{field\} places"),
        ("{sentence}", "", r"names no field"),
        ("[labels]", 'label_field = "lable"\n[labels]', r"names the field 'lable', .*sentence, label"),
        (
            "[labels]",
            'metric = "bleu"\n[labels]',
            r"films.toml:3: metric = 'bleu' must be 'accuracy' or 'f1'",
        ),
        (
            "files =",
            'hub = "x"\nfiles =',
            r"films.toml:6: \[source\] needs exactly one of .*'hub' or 'files'",
        ),
        ("files =", 'subset = "x"\nfiles =', r"films.toml:7: subset belongs to a data set of the hub"),
        ("validation =", "valid =", r"\[source.files\] has no key 'valid'; did you mean 'validation'\?"),
        ("[source]", "[sources]", r"films.toml:6: a task has no key 'sources'; did you mean 'source'\?"),
        ("[labels]", "[labels", r"films.toml is not valid TOML: .*line 3"),
        ('"train.jsonl"', '"trian.jsonl"', r"trian.jsonl \(the train file\) does not exist"),
        ('"train.jsonl"', '"train.xls"', r"has the ending '.xls'; it must be one of .jsonl, .csv"),
    ],
)
def test_a_mistake_in_a_task_file_is_named(
    load: Callable[..., Task], old: str, new: str, message: str
) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        load((old, new))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'sentence': 'x'}", r"train.jsonl:5: the line is not JSON"),
        ('["x", 1]', r"train.jsonl:5: the line is a JSON list; it must be an object"),
        ('{"sentence": "x", "label": 7}', r"train.jsonl:5: the label 7 .*has no word; add 7 = "),
        ('{"sentence": "x", "label": -1}', r"train.jsonl:5: the label -1 .*which has 0, 1"),
        ('{"sentence": "x"}', r"train.jsonl:5: the row has no value for the field 'label'"),
        ('{"sentence": null, "label": 1}', r"train.jsonl:5: the row has no value for the field 'sentence'"),
    ],
)
def test_a_mistake_in_a_data_file_is_named(
    load: Callable[..., Task], folder: Path, line: str, message: str
) -> None:
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    lines[4] = line
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(TaskError, match=message):
        load(train=30, validation=10)


def test_other_broken_files_are_named(load: Callable[..., Task], folder: Path) -> None:
    broken = {
        "empty.jsonl": (b"\n", r"empty.jsonl \(the train split\) holds no rows"),
        "bytes.jsonl": (b'{"sentence": "\xff"}\n', r"bytes.jsonl .*not UTF-8 at byte 14"),
        "wide.csv": (b"sentence,label\na,1\nb, c,0\n", r"wide.csv:3: the row has 3 values and the header 2"),
        "column.csv": (
            b"text,label\n" + b"a,1\n" * 40,
            r"'sentence', which .*column.csv lacks .*text, label",
        ),
        "quote.csv": (b'sentence,label\n"a"b,1\n', r"quote.csv:2: the row is not CSV"),
        "a.parquet": (b"not parquet", r"a.parquet is not a parquet file"),
    }
    for name, (content, message) in broken.items():
        (folder / name).write_bytes(content)
        with pytest.raises(TaskError, match=message):
            load(files={"train": folder / name, "validation": folder / name})
    with pytest.raises(TaskError, match=r"has no validation file; add validation = "):
        load(files={"train": folder / "train.jsonl"})
    with pytest.raises(TaskError, match=r"names the split 'dev'; it can be 'train' or 'validation'"):
        load(files={"dev": folder / "train.jsonl"})
    with pytest.raises(TaskError, match=r"none is left to train on .*task.validation = 40"):
        load(validation=40, train=0)


def test_a_damaged_parquet_file_is_named_as_one(tmp_path: Path) -> None:
    """The library raises OSError and more for damage, which is not the disk's doing."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path, damaged = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pyarrow.parquet.write_table(
        pa.Table.from_pylist([{"sentence": f"s {i}", "label": i % 2} for i in range(8)]), path
    )
    whole, refused = path.read_bytes(), 0
    for at in range(len(whole)):
        damaged.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            data.read(describe("text"), {"train": damaged}, "train", 1)
        except TaskError as error:
            assert "b.parquet is not a parquet file, or is damaged (" in str(error), error
            refused += 1
    assert refused > len(whole) // 4
    with pytest.raises(TaskError, match=r"none.parquet \(the train file\) does not exist"):
        data.read(describe("text"), {"train": tmp_path / "none.parquet"}, "train", 1)


def test_unknown_tasks_and_missing_data_are_named(tmp_path: Path) -> None:
    def load(name: str) -> Task:
        return load_task(name, byte_level(), files={}, train=1, validation=0, test=0, seed=0, max_tokens=8)

    assert {"sst2", "text", "word-feeling"} <= set(built_in())
    with pytest.raises(TaskError, match=r"'sst-2'; did you mean 'sst2'\?"):
        load("sst-2")
    with pytest.raises(TaskError, match=r"task file .*mine.toml does not exist"):
        load(str(tmp_path / "mine.toml"))
    with pytest.raises(TaskError, match=r"task 'text' has no data; set task.files"):
        load("text")


def test_a_missing_package_is_answered_with_its_command(
    load: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zodist.tasks.source.PACKAGES", {"no_such_package": read_lexicon})
    source = 'files = {train = "train.jsonl", validation = "validation.jsonl"}'
    with pytest.raises(TaskError, match=r"run: pip install no_such_package$"):
        load((source, 'package = "no_such_package"'))


def test_a_data_set_that_cannot_be_had_is_one_sentence(
    load: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    source = 'files = {train = "train.jsonl", validation = "validation.jsonl"}'
    with pytest.raises(
        TaskError, match=r"the data set nobody/nothing \(split train\) cannot be loaded"
    ) as caught:
        load((source, 'hub = "nobody/nothing"'))
    assert "\n" not in str(caught.value)
