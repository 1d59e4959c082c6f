"""Hostile inputs, each through the command that meets it first: an honest result, or one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attempts import Row, attempt
from settings_rows import ROWS as SETTINGS
from tokenizer_rows import ROWS as TOKENIZERS
from weights_rows import ROWS as WEIGHTS
from world import build

ROWS: list[Row] = [*SETTINGS, *TOKENIZERS, *WEIGHTS]
SAMPLE = ROWS[5::70]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("world"))


def refused_or_used(row, world, tmp_path):
    outcome = attempt(row, world, tmp_path)
    assert not outcome.left
    if row.says is None or (row.free and outcome.exit == 0):
        assert outcome.exit == 0, outcome.line
    else:
        assert outcome.exit == 2 and outcome.line.startswith("error: ")
        assert row.says in outcome.line and "--debug" not in outcome.line


@pytest.mark.parametrize("row", SAMPLE, ids=[row.title for row in SAMPLE])
def test_some_hostile_inputs(world, tmp_path, row):
    refused_or_used(row, world, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=[row.title for row in ROWS])
def test_every_hostile_input(world, tmp_path, row):
    refused_or_used(row, world, tmp_path)


def test_no_row_stands_there_twice():
    assert len({row.title for row in ROWS}) == len(ROWS) > 200


def test_the_committed_table_has_the_same_rows():
    committed = json.loads((Path(__file__).parents[2] / "benchmarks/results/hostile.json").read_text())["inputs"]
    assert [f"{row['command']}: {row['file']}: {row['what']}" for row in committed] == [row.title for row in ROWS]
