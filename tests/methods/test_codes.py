"""Walsh codes: a step takes as many as the settings say, of one noise, and settings that ask for more are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from annotated_types import Le

from zodist import noise
from zodist.config import load
from zodist.errors import ConfigError
from zodist.methods import METHODS
from zodist.methods.steps import StepSeeds
from zodist.testing import stage, subject

COUNTS = {"probes": 3, "points": 5, "candidates": 4, "passes": 2, "examples": 6}


def settings_of(name: str) -> Any:
    return METHODS[name].settings


def greatest(name: str) -> dict[str, int]:
    """The largest number that each key which makes codes allows, or one more than there are codes."""
    found = {}
    for key in settings_of(name).codes:
        limits = [m.le for m in settings_of(name).model_fields[key].metadata if isinstance(m, Le)]
        found[key] = min([noise.CODES + 1, *(limit for limit in limits if isinstance(limit, int))])
    return found


def written(tmp_path, name: str, batch: int = 16, **keys: object):
    """A config with these settings of a method."""
    table = "".join(f"{key} = {value!r}\n" for key, value in keys.items())
    path = tmp_path / "run.toml"
    path.write_text(
        '[run]\nsteps = 3\n[model]\nname = "m"\n[task]\nname = "sst2"\n[rule]\nlr = 1e-3\n'
        f'[batch]\nsize = {batch}\n[method]\nname = "{name}"\n{table}'
    )
    return path


@pytest.mark.parametrize("name", METHODS)
def test_the_keys_that_a_method_names_make_its_codes(name):
    """Of every noise, the codes from 0 to their product less 1."""
    wanted = {key: COUNTS[key] for key in settings_of(name).codes}
    coded = {"coupling": "walsh"} if "coupling" in settings_of(name).model_fields else {}
    on = stage(subject(name, {**wanted, **coded, **({"rank": 4} if name in ("tezo", "subzero") else {})}))
    seeds = np.concatenate(
        [p.seeds for probes in on.take_made_up(0).rounds for probe in probes for p in probe.points]
    )
    bases, codes = seeds & ~np.uint64(noise.CODES - 1), seeds & np.uint64(noise.CODES - 1)
    product = math.prod(wanted.values())
    for base in np.unique(bases):
        assert np.unique(codes[bases == base]).tolist() == list(range(product))


@pytest.mark.parametrize("name", METHODS)
def test_more_codes_than_there_are_are_one_sentence_when_the_settings_are_read(name, tmp_path):
    """Each key alone at its largest, all of them together, and one key at one more than there are codes."""
    limits, held = greatest(name), settings_of(name)().model_dump()
    first = next(iter(limits))
    coded = {"coupling": "walsh"} if "coupling" in held else {}
    for keys in (limits, {first: noise.CODES + 1}, *({key: limit} for key, limit in limits.items())):
        if math.prod((held | keys)[key] for key in limits) <= noise.CODES:
            continue
        given = {key: count for key, count in keys.items() if key != "examples"}
        with pytest.raises(ConfigError) as error:
            load(written(tmp_path, name, keys.get("examples", 16), **coded, **given))
        text = str(error.value)
        assert "\n" not in text and f"method.{first} = " in text
        assert (
            "must be <= " in text
            or f"Walsh codes of one noise, which has {noise.CODES}; lower method." in text
        )


@pytest.mark.parametrize(
    "name, keys", [("loren", {"points": 66_000}), ("ldsd", {"probes": 2000, "points": 64})]
)
def test_unrelated_noises_are_as_many_as_one_likes(name, keys, tmp_path):
    settings = load(written(tmp_path, name, coupling="independent", **keys)).method.settings
    assert settings.model_dump().items() >= keys.items()


def test_a_batch_s_size_counts_where_examples_have_directions(tmp_path):
    with pytest.raises(
        ConfigError, match=r"method.probes = 65 x method.examples = 1024.*batch.size"
    ) as error:
        load(written(tmp_path, "grzo", 1024, probes=65))
    assert str(error.value).startswith(f"{tmp_path}/run.toml:13: "), "the line of method.probes"
    assert load(written(tmp_path, "grzo", 1024, probes=64)).method.settings.model_dump()["examples"] == 1024


def test_codes_end_where_the_next_noise_begins():
    seeds = StepSeeds(3, 1)
    whole = seeds.coded(noise.CODES)
    assert len(np.unique(whole & ~np.uint64(noise.CODES - 1))) == 1
    with pytest.raises(ConfigError, match="65537 Walsh codes of one noise, which has 65536"):
        seeds.coded(noise.CODES + 1)
