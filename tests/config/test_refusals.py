"""Methods refuse the update rules that would undo what they do to a step, or do it twice."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from zodist.config import load
from zodist.config.text import value_text
from zodist.errors import ConfigError
from zodist.methods import METHODS
from zodist.step import RULES

ENTRIES = sorted(Path(__file__).parent.parent.glob("configs/methods/*.toml"))
SCALING = {"adam", "sign"}  # a weight's step has the same size whatever its gradient is multiplied with
OTHERS = RULES.keys() - {"sgd"}
REFUSED = [
    ("mezo", {"memory": "adam"}, OTHERS),
    ("mezo", {"memory": "momentum"}, OTHERS),
    ("tezo", {"memory": "adam"}, OTHERS),
    ("tezo", {"memory": "momentum"}, OTHERS),
    ("lozo", {"momentum": 0.9}, OTHERS),
    ("zo_muon", {}, SCALING),
    ("hizoo", {}, SCALING),
]


def written(folder: Path, method: dict[str, Any], rule: dict[str, Any]) -> Path:
    """A config with these tables."""
    tables = {
        "run": {"steps": 1000},
        "model": {"name": "m"},
        "task": {"name": "sst2"},
        "method": method,
        "rule": {"lr": 1e-3} | rule,
    }
    path = folder / "run.toml"
    path.write_text(
        "".join(
            f"[{name}]\n" + "".join(f"{key} = {value_text(value)}\n" for key, value in table.items())
            for name, table in tables.items()
        )
    )
    return path


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name, keys, refused", REFUSED)
def test_a_rule_that_a_method_s_settings_make_pointless_is_one_sentence(name, keys, refused, rule, tmp_path):
    path = written(tmp_path, {"name": name, **keys}, {"name": rule})
    if rule not in refused:
        assert load(path).rule.name == rule
        return
    with pytest.raises(ConfigError) as error:
        load(path)
    text, line = str(error.value), path.read_text().split("\n").index(f'name = "{rule}"') + 1
    assert text.startswith(f"{path}:{line}: rule.name = {rule!r} ") and "; set rule.name = 'sgd'" in text
    assert "\n" not in text and all(f"method.{key}" in text for key in keys)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", METHODS)
def test_other_methods_go_with_every_rule_and_all_with_sgd(name, rule):
    own = [refused for method, keys, refused in REFUSED if method == name and not keys]
    assert bool(METHODS[name].settings().refuses(rule)) == any(rule in refused for refused in own)
    assert METHODS[name].settings().refuses("sgd") == ""


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.stem)
def test_the_entries_of_the_methods_go_with_their_own_rules(entry, tmp_path):
    tables = tomllib.loads(entry.read_text())
    assert load(written(tmp_path, tables["method"], tables["rule"])).method.name == tables["method"]["name"]
