"""Honest files, changed at random: what reads them returns, or raises what it says it raises, in bounded memory."""

from __future__ import annotations

import copy
import json
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from attempts import bounded
from edits import ODD, header, raw
from world import build

from tokensurgeon import InputError, MissingDependencyError, VerificationError
from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.surgery.resize import resize
from tokensurgeon.surgery.revert import revert

pytestmark = pytest.mark.slow

MEMORY = 2 << 30
SETTINGS = hypothesis.settings(
    max_examples=150, derandomize=True, deadline=None, database=None, print_blob=False,
    suppress_health_check=list(hypothesis.HealthCheck),
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(list(ODD.values())),
    st.sampled_from([2**31, 2**32, 2**63, 2**64, -(2**63), 10**400, 1e308, "", "\0", "a" * 10_000, "<|im_end|>"]),
    st.integers(-3, 3),
    st.recursive(st.none(), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner)),
)
STEPS = st.tuples(
    st.sampled_from(["put", "drop", "twice", "wrap", "swap"]), st.lists(st.integers(0, 10**6), max_size=6), VALUES
)
CHANGES = st.tuples(
    st.lists(STEPS, min_size=1, max_size=3),
    st.sampled_from([None] * 8 + [0.1, 0.99]),
    st.sampled_from([False] * 8 + [True]),
)
"""Steps; seldom the share of the file that is left, or every key twice."""


def changed(content: Any, steps: list[tuple[str, list[int], Any]]) -> Any:
    """A copy with values replaced, taken out, repeated, nested, or exchanged with their neighbours."""
    content = copy.deepcopy(content)
    for step, path, value in steps:
        parent, key, node = None, None, content
        for number in path:
            if not isinstance(node, (dict, list)) or not node:
                break
            parent, key = node, list(node)[number % len(node)] if isinstance(node, dict) else number % len(node)
            node = parent[key]
        if parent is None:
            continue
        if step == "put":
            parent[key] = value
        elif step == "drop":
            del parent[key]
        elif step == "twice" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(node))
        elif step == "wrap":
            parent[key] = [node] if isinstance(value, int) else {"type": "Sequence", "a": node}
        elif step == "swap":
            other = next(iter(parent)) if isinstance(parent, dict) else 0
            parent[key], parent[other] = parent[other], parent[key]
    return content


def spoiled(data: bytes, change: Any) -> bytes:
    steps, cut, twice = change
    text = json.dumps(changed(json.loads(data), steps)).encode()
    if twice:  # a key stands there twice
        text = b"{" + text[1:-1] + b"," + text[1:] if len(text) > 2 else text
    return text if cut is None else text[: int(len(text) * cut)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("world"))


def tried(directory, name, data, use):
    """Put data into a file, use it, put the honest data back."""
    path, before = directory / name, (directory / name).read_bytes()
    listed = sorted(directory.parent.rglob("*"))
    path.write_bytes(data)
    try:
        with bounded(MEMORY):
            use(directory)
    except (InputError, MissingDependencyError, VerificationError) as error:
        assert str(error).strip()
        left = [p for p in sorted(directory.parent.rglob("*")) if p not in listed]
        assert not left
    finally:
        path.write_bytes(before)


def read_tokenizer(directory):
    files = TokenizerFiles.open(directory)
    vocabulary = files.vocabulary()
    vocabulary.decode(vocabulary.encode("some text, 123"))
    files.special_ids()
    files.adds_bos()


def read_weights(directory):
    files = Checkpoint.open(directory)
    for name in files.tensors:
        files.digest(name)


def read_model(directory):
    model = OpenModel.open(str(directory)).checked()
    model.described()
    assert model.output_rows() > 0


def read_manifest(directory):
    Manifest.of_transplant(directory)


@pytest.mark.parametrize(
    ("side", "name", "use"),
    [
        ("donor", "tokenizer.json", read_tokenizer),
        ("unigram", "tokenizer.json", read_tokenizer),
        ("wordpiece", "tokenizer.json", read_tokenizer),
        ("tekken", "tekken.json", read_tokenizer),
        ("base", "tokenizer_config.json", read_tokenizer),
        ("base", "config.json", read_model),
        ("base", "generation_config.json", read_model),
        ("model", "tokensurgeon.json", read_manifest),
    ],
)
def test_a_json_file_that_was_changed_at_random(world, side, name, use):
    honest = (world / side / name).read_bytes()

    @SETTINGS
    @hypothesis.given(CHANGES)
    def attempts(change):
        tried(world / side, name, spoiled(honest, change), use)

    attempts()


def test_a_safetensors_header_that_was_changed_at_random(world):
    honest = (world / "base/model.safetensors").read_bytes()

    @SETTINGS
    @hypothesis.given(CHANGES)
    def attempts(change):
        data = header(lambda text: spoiled(text, change))(honest)
        tried(world / "base", "model.safetensors", data, read_weights)

    attempts()


@pytest.mark.parametrize("name", ["tokenizer.json", "tekken.json", "config.json", "model.safetensors"])
def test_bytes_of_no_kind(world, name):
    side, use = {
        "tokenizer.json": ("donor", read_tokenizer), "tekken.json": ("tekken", read_tokenizer),
        "config.json": ("base", read_model), "model.safetensors": ("base", read_weights),
    }[name]  # fmt: skip

    @SETTINGS
    @hypothesis.given(st.binary(max_size=200))
    def attempts(data):
        tried(world / side, name, raw(data)(b""), use)

    attempts()


@pytest.mark.parametrize(
    ("side", "name"),
    [
        ("base", "config.json"),
        ("base", "generation_config.json"),
        ("base", "tokenizer_config.json"),
        ("model", "tokensurgeon.json"),
    ],
)
def test_whole_commands_on_files_that_were_changed_at_random(world, tmp_path, side, name):
    honest = (world / side / name).read_bytes()

    def use(directory):
        out = tmp_path / "out"
        if side == "base":
            resize(str(directory), out, pad_to_multiple_of=128, overwrite=True)
        else:
            revert(str(directory), str(world / "base"), out, overwrite=True)

    @hypothesis.settings(SETTINGS, max_examples=40)
    @hypothesis.given(CHANGES)
    def attempts(change):
        tried(world / side, name, spoiled(honest, change), use)
        assert {path.name for path in tmp_path.iterdir()} <= {"out"}

    attempts()
