"""Merging into a union of vocabularies, and rows that a recipe names."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import llama, save
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokensurgeon import ExtendOptions, InputError
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.evaluation.texts import python_text
from tokensurgeon.merging import merge
from tokensurgeon.merging.recipe import read_recipe
from tokensurgeon.merging.union import missing_tokens
from tokensurgeon.surgery.extend import extend

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def models(zoo, tmp_path_factory, gpt, spm):
    """`more` is `a` fine-tuned with more tokens; `s` has another tokenizer."""
    root = tmp_path_factory.mktemp("models")
    (root / "new.txt").write_text(" surgeonsurgeon\n tokenise\n")
    options = ExtendOptions("mean", tokens=root / "new.txt", special={"<think>": "think"})
    tuned = save(root / "tuned", llama(len(gpt), tied=False, seed=8), gpt)
    extend(str(tuned), root / "more", options)
    (root / "more/tokensurgeon.json").unlink()  # as if it had been trained since: its rows are its own
    return {
        "a": zoo["untied"], "more": root / "more",
        "s": save(root / "s", llama(len(spm) + 22, tied=False, seed=9), spm),
    }  # fmt: skip


@pytest.fixture
def recipe(write_recipe):
    def write(names, tokenizer, **more):
        entries = [{"model": f"<{name}>", "parameters": {"weight": 0.5}} for name in names]
        content = {"merge_method": "linear", "models": entries, "tokenizer": tokenizer, "tokensurgeon": {"k": 8}}
        return write_recipe(content | more)

    return write


def test_a_union_has_the_rows_of_the_model_that_knows_the_token(models, recipe, tmp_path):
    report = merge(recipe(["a", "more"], {"source": "union"}), tmp_path / "out")
    old, theirs, new = (AutoTokenizer.from_pretrained(d) for d in (models["a"], models["more"], tmp_path / "out"))
    assert old.get_vocab().items() <= new.get_vocab().items() and set(theirs.get_vocab()) <= set(new.get_vocab())
    text = "we <think> tokenise surgeonsurgeon</think>"
    assert new.convert_ids_to_tokens(new(text)["input_ids"]) == theirs.convert_ids_to_tokens(theirs(text)["input_ids"])
    assert "<think>" in new.all_special_tokens
    a, more, out = (load_file(d / "model.safetensors") for d in (models["a"], models["more"], tmp_path / "out"))
    for token, token_id in theirs.get_vocab().items():
        for name in (EMBEDDING, HEAD):
            row = out[name][new.convert_tokens_to_ids(token)]
            if token in old.get_vocab():
                assert torch.allclose(row, (a[name][token_id] + more[name][token_id]) / 2, atol=1e-6)
            else:
                assert torch.equal(row, more[name][token_id]), token
    assert report.content["merge"]["left_out"] == {}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == len(out[EMBEDDING]) == len(new)


@pytest.mark.slow
def test_other_tokenizers_join_the_union(models, recipe, tmp_path):
    """A text is cut in one way, never into more tokens than the first tokenizer's; what cannot be is counted."""
    report = merge(recipe(["a", "s"], {"source": "union", "pad_to_multiple_of": 64}), tmp_path / "out")
    old, new = (AutoTokenizer.from_pretrained(d) for d in (models["a"], tmp_path / "out"))
    assert old.get_vocab().items() <= new.get_vocab().items() and "<start_of_turn>" in new.all_special_tokens
    assert report.content["counts"].get("padding", 0) + report.content["counts"]["unreachable"] > 0
    text = python_text(20_000, part=1)
    ids = new(text)["input_ids"]
    assert new.decode(ids) == old.decode(old(text)["input_ids"]) and len(ids) < len(old(text)["input_ids"])
    out = load_file(tmp_path / "out/model.safetensors")[EMBEDDING]
    assert len(out) % 64 == 0
    s, union = OpenModel.open(str(models["s"])), OpenModel.open(str(tmp_path / "out"))
    rows, known, first = load_file(models["s"] / "model.safetensors")[EMBEDDING], s.vocabulary.text_ids(), len(old)
    fresh = [(known[data], i) for data, i in union.vocabulary.text_ids().items() if i >= first and data in known]
    assert len(fresh) > 50 and all(torch.equal(out[i], rows[theirs]) for theirs, i in fresh)
    left = report.content["merge"]["left_out"]
    assert left == {str(models["s"]): len(missing_tokens(s, union))} and left[str(models["s"])] < 0.3 * len(known)
    assert "The union lacks" in (tmp_path / "out/README.md").read_text()


@pytest.mark.slow
def test_named_rows(models, recipe, tmp_path):
    """Mergekit's `tokens`: a model's row, another token's row by name and by id, zeros, with and without force."""
    a, more = str(models["a"]), str(models["more"])
    tokens = {
        "<|im_start|>": {"source": more, "force": True},
        "<|im_end|>": {"source": more},  # all have it: merged, as by mergekit
        "<repo>": {"source": {"kind": "zero"}, "force": True},
        "<think>": {"source": {"kind": "model_token", "model": a, "token": "<|endoftext|>"}},
        "<new>": {"source": {"kind": "model_token", "model": more, "token_id": 300}},
    }
    report = merge(recipe(["a", "more"], {"source": "union", "tokens": tokens}), tmp_path / "out")
    ids = AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    x, y, out = (load_file(d / "model.safetensors") for d in (models["a"], models["more"], tmp_path / "out"))
    for name in (EMBEDDING, HEAD):
        row = {token: out[name][ids[token]] for token in tokens}
        assert torch.equal(row["<|im_start|>"], y[name][1]) and not row["<repo>"].any()
        assert torch.allclose(row["<|im_end|>"], (x[name][2] + y[name][2]) / 2, atol=1e-6)
        assert torch.equal(row["<think>"], x[name][0]) and torch.equal(row["<new>"], y[name][300])
    assert report.content["merge"]["rows"]["embedding"]["named"] == 4
    new = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert new("a<new>b", add_special_tokens=False)["input_ids"].count(ids["<new>"]) == 1
    assert "<new>" not in new.all_special_tokens  # mergekit adds such tokens as ordinary ones


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ({"source": "union", "tokens": {"<x>": {"source": "elsewhere"}}}, "elsewhere, which the recipe does not merge"),
        ({"source": "union", "tokens": {"<x>": {"source": "<a>"}}}, "row of '<x>', and .* has none"),
        (
            {
                "source": "union",
                "tokens": {"<x>": {"source": {"kind": "model_token", "model": "<a>", "token_id": 9999}}},
            },
            "takes row 9999 of .*, which has 700",
        ),
        ({"source": "union", "tokens": {"<x>": {"force": True}}}, "needs a source"),
        ({"source": "union", "tokens": {"<x>": {"sauce": "<a>"}}}, "sauce is unknown to mergekit"),
        ({"source": "union", "tokens": {"<x>": {"source": {"kind": "zero", "token": "y"}}}}, "token is unknown"),
        ({"source": "union", "pad_to_multiple_of": 0}, "must be at least 1"),
    ],
)
def test_bad_tokens(recipe, tmp_path, cache, tokenizer, message):
    before = sorted(cache.rglob("*"))
    with pytest.raises(InputError, match=message):
        merge(recipe(["a", "more"], tokenizer), tmp_path / "out")
    assert not (tmp_path / "out").exists() and sorted(cache.rglob("*")) == before


def test_a_union_is_read_from_either_of_mergekits_keys(recipe):
    assert read_recipe(recipe(["a", "more"], {"source": "union"})).union
    path = recipe(["a", "more"], None, tokenizer_source="union")
    content = yaml.safe_load(path.read_text())
    del content["tokenizer"]
    path.write_text(yaml.safe_dump(content))
    assert read_recipe(path).union


def test_rows_are_named_without_a_union_too(models, recipe, tmp_path):
    """The tokenizer of one model, with a token that no model has: the others' own tokens are left out."""
    tokens = {"<new>": {"source": {"kind": "model_token", "model": str(models["more"]), "token": "<think>"}}}
    merge(recipe(["a", "more"], {"source": str(models["a"]), "tokens": tokens}), tmp_path / "out")
    new, old = (AutoTokenizer.from_pretrained(d) for d in (tmp_path / "out", models["a"]))
    assert new.get_vocab() == old.get_vocab() | {"<new>": len(old)}
    theirs = AutoTokenizer.from_pretrained(models["more"]).convert_tokens_to_ids("<think>")
    rows = [load_file(d / "model.safetensors")[EMBEDDING] for d in (tmp_path / "out", models["more"])]
    assert torch.equal(rows[0][len(old)], rows[1][theirs])
