"""The table of sabotages: what `verify` must find, as a committed result that can be made again."""

from __future__ import annotations

import json
import tomllib

import pytest

from benchmarks.experiments import sabotage
from benchmarks.tables.sabotage import missed, why_harmless
from benchmarks.tables.sabotage import sabotage as table

EXPERIMENT = tomllib.loads((sabotage.RESULTS.parent / "experiments/sabotage.toml").read_text())
RESULT = json.loads((sabotage.RESULTS / "sabotage.json").read_text())


def test_all_that_matters_is_found_and_nothing_honest_is_refused():
    assert not [found for found in missed(RESULT) if why_harmless(RESULT, *found) is None]
    assert not [f for of in RESULT["kinds"].values() for f in of["honest"]] and not any(RESULT["honest"].values())
    assert (
        RESULT["kinds"].keys() == EXPERIMENT["kinds"].keys() and RESULT["honest"].keys() == EXPERIMENT["honest"].keys()
    )
    assert sum(len(changes) for of in RESULT["kinds"].values() for changes in of["caught"].values()) >= 161


def test_no_change_ends_in_an_error_of_another_kind():
    names = [n for of in RESULT["kinds"].values() for g in of["caught"].values() for f in g.values() for n in f["base"]]
    assert names and all(not name.startswith("Error") for name in names)


def test_the_table_counts_every_change():
    lines = table(RESULT).splitlines()
    assert lines[0].count("|") == lines[2].count("|") and "| **all** |" in table(RESULT)
    assert "a bit of a new row (less than" in lines[-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPERIMENT["kinds"])
def test_the_result_is_what_is_found(kind):
    """Made again, change by change; the checks by name."""
    with sabotage.prepared(EXPERIMENT) as (models, work):
        assert sabotage.measured(EXPERIMENT, kind, models, work) == RESULT["kinds"][kind]
