"""Settings: a file is read strictly and written back exactly, and every mistake is one sentence."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from zodist.config.settings import Config, load
from zodist.errors import ConfigError

FILE = """\
# a run
[run]
steps = 10

[model]
name = "smollm2-135m"

[task]
name = "sst2"

[method]
name = "mezo"
eps = 1e-3

[rule]
lr = 1e-4
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "quick.toml"
    path.write_text(FILE)
    return path


def mistake(path, *overrides: str) -> str:
    """The sentence for a mistake, without the folder."""
    with pytest.raises(ConfigError) as error:
        load(path, overrides)
    text = str(error.value)
    assert "\n" not in text
    return text.replace(f"{path.parent}/", "")


def written(path, old: str, new: str) -> str:
    assert FILE.count(old) == 1
    path.write_text(FILE.replace(old, new))
    return mistake(path)


def test_defaults_are_filled_in(path):
    config = load(path)
    assert config.run.folder == "runs/quick"
    assert (config.rule.name, config.rule.lr, config.batch.size) == ("sgd", 1e-4, 16)
    assert config.method.name == "mezo"
    assert config.method.settings.model_dump() == {
        "probes": 1,
        "eps": 1e-3,
        "noise": "gaussian",
        "coupling": "walsh",
        "memory": "none",
        "horizon": 8,
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1e-8,
    }


def test_a_config_cannot_be_changed(path):
    config = load(path)
    with pytest.raises(ValidationError):
        config.rule.lr = 1.0  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.method.settings.eps = 1.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("rule.lr=2e-5", 2e-5),
        ("rule.lr=1", 1.0),
        ("run.seed=7", 7),
        ("batch.probes_per_forward=auto", "auto"),
        ("batch.probes_per_forward=8", 8),
        ("output.plot=false", False),
        ("model.name=a/b-c", "a/b-c"),
        ("model.name=2024", "2024"),
        ("model.name='x y'", "x y"),
        ("model.train=layers\\.[0-9]+\\.", "layers\\.[0-9]+\\."),
        ("run.folder=2024-01-01", "2024-01-01"),
        ('task.files={train = "a.jsonl"}', {"train": "a.jsonl"}),
        ("task.files.train=a.jsonl", {"train": "a.jsonl"}),
        (" run.steps = 3", 3),
    ],
)
def test_an_override_sets_a_value(path, override, value):
    section, key = override.split("=")[0].strip().split(".")[:2]
    found = getattr(getattr(load(path, [override]), section), key)
    assert found == value and type(found) is type(value)


def test_later_overrides_win_and_reach_the_method(path):
    assert load(path, ["method.probes=2", "method.probes=4"]).plain()["method"]["probes"] == 4


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("rule.lrr=1", "[rule] has no key 'lrr'; did you mean 'lr'?"),
        ("rule.steps=3", "[rule] has no key 'steps'; it belongs to [run]"),
        ("rule.lr=0", "rule.lr = 0 must be > 0"),
        ("rule.lr=nan", "rule.lr = nan must be finite"),
        ("rule.lr=inf", "rule.lr = inf must be finite"),
        ("rule.lr=high", "rule.lr = 'high' must be a number"),
        ("rule.lr=true", "rule.lr = true must be a number"),
        ("rule.momentum=1.0", "rule.momentum = 1.0 must be < 1"),
        (
            "rule.momentum=0.5",
            "rule.momentum = 0.5 has no effect with rule.name = 'sgd'; set rule.name = 'momentum' or 'adam'",
        ),
        ("rule.warmup=11", "rule.warmup = 11 must be <= run.steps = 10"),
        ("ruel.lr=3", "there is no section [ruel]; did you mean [rule]?"),
        (
            "model.dtype=bf16",
            "model.dtype = 'bf16' must be 'float32', 'bfloat16' or 'float16'; did you mean 'bfloat16'?",
        ),
        ("model.name=", "model.name = '' must not be empty"),
        (
            "model.train=[z",
            "model.train = '[z' is not a regular expression: unterminated character set at position 0",
        ),
        ("method.name=mezzo", "method.name = 'mezzo' is not a method; did you mean 'mezo'?"),
        ("method.epps=1", "[method] has no key 'epps'; did you mean 'eps'?"),
        ("method.eps=-1", "method.eps = -1 must be > 0"),
        ("method.probes=0", "method.probes = 0 must be >= 1"),
        ("method.probes=2.0", "method.probes = 2.0 must be a whole number"),
        ("batch.probes_per_forward=x", "batch.probes_per_forward = 'x' must be a whole number or 'auto'"),
        ("batch.probes_per_forward=0", "batch.probes_per_forward = 0 must be >= 1 or 'auto'"),
        ("method.coupling=hadamard", "method.coupling = 'hadamard' must be 'walsh' or 'independent'"),
        ("batch.size=0", "batch.size = 0 must be >= 1"),
        ("run.seed=-1", "run.seed = -1 must be >= 0"),
        ("output.plot=1", "output.plot = 1 must be true or false"),
        ("task.files=x", "task.files = 'x' must be a table"),
        ("exchange.kind=nccl", "exchange.kind = 'nccl' must be 'auto', 'local', 'torch', 'mpi' or 'store'"),
    ],
)
def test_a_mistake_in_an_override_is_one_sentence(path, override, sentence):
    assert mistake(path, override) == f"override {override!r}: {sentence}"


@pytest.mark.parametrize("override", ["lr", "rule.lr", "lr=3", "=3", "rule.=3", ".lr=3"])
def test_an_override_of_the_wrong_form_is_refused(path, override):
    assert mistake(path, override) == (
        f"override {override!r} must read section.key=value, such as rule.lr=1e-4"
    )


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("lr = 1e-4", "lrr = 1e-4", "quick.toml:16: [rule] has no key 'lrr'; did you mean 'lr'?"),
        ("lr = 1e-4", "", "quick.toml:15: [rule] needs the key 'lr'; add it"),
        ("[rule]\nlr = 1e-4\n", "", "quick.toml: [rule] needs the key 'lr'; add it"),
        ("steps = 10", "steps = 0", "quick.toml:3: run.steps = 0 must be >= 1"),
        ("steps = 10", "steps = 10\nlr = 1", "quick.toml:4: [run] has no key 'lr'; it belongs to [rule]"),
        ("eps = 1e-3", "eps = '1e-3'", "quick.toml:13: method.eps = '1e-3' must be a number"),
        ('name = "mezo"', "name = 3", "quick.toml:12: method.name = 3 is not a method; it can be "),
        ("# a run", "seed = 1", "quick.toml:1: 'seed' stands outside a section; put it below [run]"),
        ("# a run", "sed = 1", "quick.toml:1: 'sed' stands outside a section; put it below one"),
        ("# a run", "[zzzz]", "quick.toml:1: there is no section [zzzz]; it can be [run], [model], "),
        ("[rule]", "[[rule]]", "quick.toml:15: 'rule' must be a section; write [rule]"),
        ("lr = 1e-4", "lr = ", "quick.toml:16: Invalid value; correct the TOML"),
        ("lr = 1e-4", "lr = 1\nlr = 2", "quick.toml:17: Cannot overwrite a value; correct the TOML"),
        (
            'name = "sst2"',
            "files = {train = 3}\nname = 'x'",
            "quick.toml:9: task.files.train = 3 must be text",
        ),
        ('"sst2"', '"""\n[rule]\n"""\nseed = -1', "quick.toml:12: task.seed = -1 must be >= 0"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence_with_its_line(path, old, new, sentence):
    assert written(path, old, new).startswith(sentence)


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path):
    assert "No such file or directory" in mistake(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b"\xff")
    assert "it is not UTF-8 text" in mistake(tmp_path / "latin.toml")


def test_files_of_a_task_are_found_beside_the_config(path):
    (path.parent / "mine.toml").touch()
    (path.parent / "mine.csv").touch()
    config = load(path, ["task.name=mine.toml", 'task.files={train = "mine.csv", test = "elsewhere.csv"}'])
    assert config.task.name == (path.parent / "mine.toml").as_posix()
    assert config.task.files == {"train": (path.parent / "mine.csv").as_posix(), "test": "elsewhere.csv"}
    assert load(path).task.name == "sst2"


def reread(config: Config, folder) -> Config:
    again = folder / "written.toml"
    again.write_text(config.to_toml(), encoding="utf-8")
    return load(again)


def test_what_is_written_is_read_back_equal(path):
    config = load(path, ["rule.name=momentum", "rule.momentum=0.5", "method.probes=8", "rule.lr=1e16"])
    assert reread(config, path.parent) == config
    assert config.to_toml() == reread(config, path.parent).to_toml()
    assert tomllib.loads(config.to_toml()) == config.plain()


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.text(max_size=5), max_size=3),
    st.integers(0, 2**63 - 1),
)
def test_any_text_and_number_survives_the_file(tmp_path_factory, text, number, table, whole):
    folder = tmp_path_factory.mktemp("config")
    (folder / "a.toml").write_text(FILE)
    config = load(folder / "a.toml")
    config = config.model_copy(
        update={
            "run": config.run.model_copy(update={"folder": text, "seed": whole}),
            "rule": config.rule.model_copy(update={"lr": number}),
            "task": config.task.model_copy(update={"files": table}),
        }
    )
    assert reread(config, folder) == config
