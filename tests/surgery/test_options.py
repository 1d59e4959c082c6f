"""Options and errors are plain values: they can be copied, compared, and sent to another process."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest

from tokensurgeon import ExtendOptions, InputError, MissingDependencyError, TransplantOptions, VerificationError
from tokensurgeon.checkpoint import Checkpoint, find_vocabulary_tensors

GIVEN = {"method": "neighbours", "k": 3, "method_options": {"temperature": 0.2}, "map": {"<a>": "b", "<c>": "d"}}


@pytest.mark.parametrize(
    "options",
    [
        TransplantOptions(),
        TransplantOptions(**GIVEN, text=("a.txt",)),
        ExtendOptions(tokens=Path("new.txt"), method_options={"head": "first"}),
    ],
)
def test_options_are_plain_values(options):
    for other in (pickle.loads(pickle.dumps(options)), copy.deepcopy(options), copy.copy(options)):
        assert other == options and hash(other) == hash(options)
    assert type(options)(**asdict(options)) == options
    assert json.loads(json.dumps(options.as_dict())) == options.as_dict()


def test_an_extension_goes_by_its_donor_if_it_has_one():
    assert ExtendOptions(tokens="new.txt").method == "subtoken"
    assert ExtendOptions(tokens="new.txt", donor="x").method == "omp"


def test_the_order_of_a_table_does_not_count():
    one = TransplantOptions(**GIVEN)
    other = TransplantOptions(**GIVEN | {"map": dict(reversed(GIVEN["map"].items()))})
    assert one == other and hash(one) == hash(other) and len({one, other, TransplantOptions()}) == 2
    assert one != TransplantOptions(**GIVEN | {"map": {"<a>": "c"}})


def test_what_a_caller_changes_later_changes_nothing():
    table, options, text = {"<a>": "b"}, {"temperature": 0.2}, ["a.txt"]
    made = TransplantOptions("neighbours", method_options=options, map=table, text=text)
    before = hash(made)
    table["<a>"], options["temperature"] = "c", 5.0
    text.append("b.txt")
    assert made.map == {"<a>": "b"} and made.method_options == {"temperature": 0.2} and made.text == ("a.txt",)
    assert hash(made) == before and made.as_dict()["text"] == ["a.txt"]


@pytest.mark.parametrize(
    "error", [MissingDependencyError("peft", "heal", "healing"), InputError("no"), VerificationError("bad")]
)
def test_errors_come_out_of_another_process(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


def test_where_the_vocabulary_lies_is_plain_too(zoo):
    layout = find_vocabulary_tensors(zoo["untied"], Checkpoint.open(zoo["untied"]).tensors)
    assert pickle.loads(pickle.dumps(layout)) == copy.deepcopy(layout) == layout
