"""Which tensors are vocabulary-sized."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokensurgeon import InputError
from tokensurgeon.checkpoint import Checkpoint, find_vocabulary_tensors


def layout(directory):
    return find_vocabulary_tensors(directory, Checkpoint.open(directory).tensors)


@pytest.mark.parametrize(
    ("name", "embedding", "head", "bias"),
    [
        ("gpt", "model.embed_tokens.weight", None, None),
        ("untied", "model.embed_tokens.weight", "lm_head.weight", None),
        ("sharded", "model.embed_tokens.weight", None, None),
        ("biased", "model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"),
        ("neox", "gpt_neox.embed_in.weight", "embed_out.weight", None),
    ],
)
def test_found_by_structure(zoo, name, embedding, head, bias):
    found = layout(zoo[name])
    assert (found.embedding, found.head, found.bias) == (embedding, head, bias)
    assert found.tied == (head is None)


def test_base_model_checkpoints_lack_the_prefix(copy_of):
    directory = copy_of("gpt")
    path = directory / "model.safetensors"
    save_file({n.removeprefix("model."): t for n, t in load_file(path).items()}, path)
    assert layout(directory).embedding == "embed_tokens.weight"


def test_a_stored_copy_of_a_tied_head_is_noticed(copy_of):
    directory = copy_of("gpt")
    path = directory / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path)
    found = layout(directory)
    assert found.tied and found.stale == {"lm_head.weight": "model.embed_tokens.weight"}


def test_unknown_architecture(copy_of):
    directory = copy_of("gpt")
    (directory / "config.json").write_text(json.dumps({"model_type": "martian"}))
    with pytest.raises(InputError, match="'martian'"):
        layout(directory)


def test_no_config(copy_of):
    directory = copy_of("gpt")
    (directory / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config.json"):
        layout(directory)


def test_missing_embedding(copy_of):
    directory = copy_of("gpt")
    save_file({"other": torch.zeros(2)}, directory / "model.safetensors")
    with pytest.raises(InputError, match="has none of"):
        layout(directory)


def test_quantised_embedding(copy_of):
    directory = copy_of("gpt")
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].to(torch.int8)
    save_file(tensors, path)
    with pytest.raises(InputError, match="stored as I8"):
        layout(directory)
