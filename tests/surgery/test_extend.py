"""Extending: more tokens that really come out, everything else as it was."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from tiny import fast, llama, save, sentencepiece_bpe, unigram, wordpiece
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tokensurgeon import ExtendOptions, InputError, RowPlan, VerificationError, VocabularyMatrices
from tokensurgeon.baselines.constant import Mean
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.cli.app import app
from tokensurgeon.evaluation.texts import python_text
from tokensurgeon.surgery.extend import extend
from tokensurgeon.surgery.own_tokenizer import read_lines
from tokensurgeon.surgery.revert import revert
from tokensurgeon.surgery.trim import trim
from tokensurgeon.transfer.learnt import LearntRows
from tokensurgeon.transfer.protocol import DonorSpace, Resources
from tokensurgeon.transfer.rows import assemble
from tokensurgeon.vocabulary.edit.add import extended_spec, given_tokens, learnt_tokens

OTHER = python_text(60_000, part=1)
KINDS = ["gpt", "spm", "untied", "biased", "sharded", "unigram", "wordpiece"]
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def kinds(zoo, tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    made = {name: zoo[name] for name in KINDS[:5]}
    uni = fast(unigram(500), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made["unigram"] = save(root / "unigram", llama(len(uni)), uni)
    words = fast(wordpiece(600), cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]")
    made["wordpiece"] = save(root / "wordpiece", llama(len(words)), words)
    padded = fast(sentencepiece_bpe(600), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made["padded"] = save(root / "padded", llama(-(-len(padded) // 64) * 64), padded)
    return made


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(OTHER)
    return path


def opened(directory):
    spec = json.loads((directory / "tokenizer.json").read_text())
    return spec, Tokenizer.from_str(json.dumps(spec))


@pytest.mark.parametrize("kind", [*KINDS, "padded"])
def test_old_rows_and_old_logits_stay(kinds, tmp_path, text, kind):
    report = extend(str(kinds[kind]), tmp_path / "out", ExtendOptions(text=[text], add=30))
    before, after = report.tokens_per_byte
    assert report.added == 30 and after < before and report.content["verified"]
    old, new = (AutoTokenizer.from_pretrained(d) for d in (kinds[kind], tmp_path / "out"))
    first = len(old)
    assert len(new) == first + 30
    held_out = python_text(8_000, part=2)
    assert new.decode(new(held_out)["input_ids"]) == old.decode(old(held_out)["input_ids"])
    assert len(new(held_out)["input_ids"]) < len(old(held_out)["input_ids"])
    tensors = [AutoModelForCausalLM.from_pretrained(d).eval() for d in (kinds[kind], tmp_path / "out")]
    rows = [model.get_output_embeddings().weight for model in tensors]
    assert tensors[1].config.vocab_size == len(rows[1]) == report.rows
    for matrix in ("get_input_embeddings", "get_output_embeddings"):
        a, b = (getattr(model, matrix)().weight for model in tensors)
        assert torch.equal(a[:first], b[:first]) and bool(b[first:].any(dim=1).all())
    ids = torch.tensor([old(OTHER[:600], add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        a, b = (model(input_ids=ids).logits[0].float() for model in tensors)
    assert torch.allclose(a[:, :first], b[:, :first], atol=1e-5)
    assert len(rows[1]) == max(len(rows[0]), first + 30)  # "spm" and "padded" have rows without a token


def test_padding_takes_no_probability(kinds, tmp_path, text):
    """Rows in multiples of 64 stay so."""
    report = extend(str(kinds["padded"]), tmp_path / "out", ExtendOptions(text=[text], add=60))
    padding = Manifest.read(tmp_path / "out").content["counts"]["padding"]
    assert report.rows % 64 == 0
    assert report.rows == len(AutoTokenizer.from_pretrained(tmp_path / "out")) + padding > padding > 0
    assert "take" in report.content["verified"]["dead ids"]


@pytest.mark.parametrize("kind", ["gpt", "spm"])
def test_merges_are_those_that_training_would_go_on_with(kinds, kind):
    """Against counting all pairs anew after every merge, with the real tokenizer."""
    spec, tokenizer = opened(kinds[kind])
    found = learnt_tokens(spec, tokenizer, [OTHER[:8000]], 12)
    first = len(tokenizer.get_vocab())
    for n, addition in enumerate(found):
        changed, _ = extended_spec(spec, found[:n], first)
        encoding = Tokenizer.from_str(json.dumps(changed)).encode(OTHER[:8000], add_special_tokens=False)
        places = zip(encoding.tokens, encoding.word_ids, strict=True)
        counts = Counter((a, b) for (a, i), (b, j) in pairwise(places) if i == j)
        usual = {
            pair: c for pair, c in counts.items() if pair[1][0] not in "▁Ġ" and "".join(pair).strip("▁Ġ").isalpha()
        }
        best = max(c for pair, c in usual.items() if "".join(pair) not in changed["model"]["vocab"])
        assert counts[addition.parts] >= best


def test_words_are_not_joined_across_spaces(kinds):
    spec, tokenizer = opened(kinds["spm"])
    assert not any("▁" in a.piece.lstrip("▁") for a in learnt_tokens(spec, tokenizer, [OTHER], 200))


@pytest.mark.parametrize("kind", ["gpt", "spm", "unigram", "wordpiece"])
def test_given_tokens_come_out(kinds, tmp_path, kind):
    (tmp_path / "new.txt").write_text(" tokensurgery\n transplantation\n tokenise\n the\nsurgeonsurgeon\n")
    report = extend(str(kinds[kind]), tmp_path / "out", ExtendOptions("mean", tokens=tmp_path / "new.txt"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for word in ("tokensurgery", "transplantation", "tokenise"):
        alone, inside = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("a", f"a {word}"))
        assert len(inside) == len(alone) + 1, word
    assert report.content["extended"]["tokens"] == report.added >= 4


def test_characters_that_were_bytes(kinds, tmp_path):
    """A SentencePiece-style vocabulary gets the characters themselves, given or learnt."""
    (tmp_path / "new.txt").write_text("日本語\n")
    extend(str(kinds["spm"]), tmp_path / "given", ExtendOptions(tokens=tmp_path / "new.txt"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "given")
    assert len(tokenizer("日本語", add_special_tokens=False)["input_ids"]) == 1
    (tmp_path / "text.txt").write_text("дом и сад. " * 4000)
    report = extend(str(kinds["spm"]), tmp_path / "learnt", ExtendOptions(text=[tmp_path / "text.txt"], add=12))
    assert report.tokens_per_byte[1] < 0.5 * report.tokens_per_byte[0]


def test_methods_make_the_rows(kinds, tmp_path, text):
    rows = {}
    for method in ("subtoken", "mean", "normal"):
        extend(str(kinds["gpt"]), tmp_path / method, ExtendOptions(method, text=[text], add=5))
        rows[method] = load_file(tmp_path / method / "model.safetensors")[EMBEDDING]
    old = load_file(kinds["gpt"] / "model.safetensors")[EMBEDDING]
    tokenizer = AutoTokenizer.from_pretrained(kinds["gpt"])
    piece = AutoTokenizer.from_pretrained(tmp_path / "mean").decode([len(old)])
    pieces = tokenizer(piece, add_special_tokens=False)["input_ids"]
    assert torch.allclose(rows["subtoken"][len(old)], old[pieces].mean(0), atol=1e-6)
    assert torch.allclose(rows["mean"][len(old) :], old.mean(0).expand(5, -1), atol=1e-5)
    assert not torch.allclose(rows["normal"][len(old)], old.mean(0), atol=1e-2)


def test_rows_from_a_donor(kinds, tmp_path, text):
    """What the donor has is a combination of anchors, by its own embedding; the rest is made of pieces."""
    donor = extend(str(kinds["spm"]), tmp_path / "donor", ExtendOptions(text=[text], add=40))
    options = ExtendOptions("ridge", text=[text], add=40, donor=str(donor.out))
    report = extend(str(kinds["gpt"]), tmp_path / "out", options)
    assert report.content["options"]["donor"] == str(donor.out) and report.content["method"]["name"] == "ridge"
    theirs = report.content["extended"]["by_donor"]
    assert 0 < theirs < 40
    extend(str(kinds["gpt"]), tmp_path / "own", ExtendOptions(text=[text], add=40))
    a, b = (load_file(tmp_path / d / "model.safetensors")[EMBEDDING] for d in ("out", "own"))
    assert int((a != b).any(dim=1).sum()) == theirs
    plain = replace(options, method_options={"pieces": "none"})
    extend(str(kinds["gpt"]), tmp_path / "plain", plain)
    c = load_file(tmp_path / "plain/model.safetensors")[EMBEDDING]
    assert 0 < int((a != c).any(dim=1).sum()) <= theirs  # pieces have their share
    with pytest.raises(InputError, match=r"has none of the \d+ new"):
        (tmp_path / "new.txt").write_text(" qqzzqqzz\n")
        lacking = ExtendOptions("ridge", tokens=tmp_path / "new.txt", donor=str(kinds["gpt"]))
        extend(str(kinds["gpt"]), tmp_path / "none", lacking)


def test_back_and_forth(kinds, tmp_path, text):
    """Reverting gives the old tensors; trimming keeps the new tokens that a text uses."""
    extend(str(kinds["untied"]), tmp_path / "more", ExtendOptions(text=[text], add=20))
    revert(str(tmp_path / "more"), str(kinds["untied"]), tmp_path / "back")
    old, back = (load_file(d / "model.safetensors") for d in (kinds["untied"], tmp_path / "back"))
    assert old.keys() == back.keys() and all(torch.equal(old[name], back[name]) for name in old)
    assert trim(str(tmp_path / "more"), [text], tmp_path / "less").after < len(old["lm_head.weight"]) + 20


def test_manifests_record_what_was_asked_and_nothing_else(kinds, tmp_path, text):
    """Neither trimming nor reverting has a method, and extending has no dtype."""
    extend(str(kinds["gpt"]), tmp_path / "more", ExtendOptions("mean", text=[text], add=5, seed=3))
    trim(str(kinds["gpt"]), [text], tmp_path / "less", size=700)
    revert(str(tmp_path / "more"), str(kinds["gpt"]), tmp_path / "back")
    found = {name: Manifest.read(tmp_path / name).content for name in ("more", "less", "back")}
    assert found["more"]["options"] == ExtendOptions("mean", text=[text], add=5, seed=3).as_dict()
    assert not {"dtype", "padding", "forward"} & set(found["more"]["options"])
    assert found["less"]["options"] == {"text": [str(text)], "size": 700, "keep": None}
    assert found["back"]["options"] == {}
    assert [found[name]["method"]["name"] for name in found] == ["mean", "trim", "revert"]


def test_what_never_comes_out_is_refused(kinds, tmp_path, text, monkeypatch):
    def without_merges(spec, additions, first):
        changed, n = extended_spec(spec, additions, first)
        return changed | {"model": changed["model"] | {"merges": spec["model"]["merges"]}}, n

    monkeypatch.setattr("tokensurgeon.surgery.extend.extended_spec", without_merges)
    with pytest.raises(VerificationError, match="5 new tokens would never come out"):
        extend(str(kinds["gpt"]), tmp_path / "out", ExtendOptions(text=[text], add=5))
    assert not (tmp_path / "out").exists()


def test_another_round_trip_is_refused(kinds, tmp_path, text, monkeypatch):
    def misspelt(spec, additions, first):
        changed, n = extended_spec(spec, additions, first)
        return changed | {"decoder": {"type": "Fuse"}}, n

    monkeypatch.setattr("tokensurgeon.surgery.extend.extended_spec", misspelt)
    monkeypatch.setattr("tokensurgeon.surgery.extend._refuse_silent", lambda *_: None)
    with pytest.raises(VerificationError, match="does not give back some text"):
        extend(str(kinds["spm"]), tmp_path / "out", ExtendOptions(text=[text], add=5))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "say what to add"),
        ({"tokens": "x", "add": 3}, "and not both"),
        ({"add": 3}, "needs a text"),
        ({"text": True, "add": 0}, "whole number of at least 1"),
        ({"text": True, "add": 10**6}, r"has only \d+ pairs"),
        ({"text": True, "add": 3, "method": "omp"}, "Give --donor"),
        ({"text": True, "add": 3, "donor": "x", "method": "mean"}, "Leave out --donor"),
        ({"tokens": "missing.txt"}, "cannot be read"),
    ],
)
def test_bad_input(kinds, tmp_path, text, arguments, message):
    if "text" in arguments:
        arguments = arguments | {"text": [text]}
    with pytest.raises(InputError, match=message):
        extend(str(kinds["gpt"]), tmp_path / "out", ExtendOptions(**arguments))


def test_tokens_that_cannot_be(kinds):
    spec, tokenizer = opened(kinds["gpt"])
    with pytest.raises(InputError, match="cut into words"):
        given_tokens(spec, tokenizer, ["New York"])
    spec, tokenizer = opened(kinds["wordpiece"])
    with pytest.raises(InputError, match="cannot be spelled"):
        given_tokens(spec, tokenizer, ["日本"])


def outside(directory, *contents):
    """Added tokens that the model's own vocabulary does not have."""
    spec = json.loads((directory / "tokenizer.json").read_text())
    for i, content in enumerate(contents, 700):
        spec["added_tokens"].append(spec["added_tokens"][0] | {"id": i, "content": content})
    (directory / "tokenizer.json").write_text(json.dumps(spec))
    return spec


def test_added_tokens_keep_their_ids(copy_of, tmp_path, caplog):
    directory = copy_of("gpt")
    outside(directory, "<think>")
    model = save(tmp_path / "model", llama(701), AutoTokenizer.from_pretrained(directory))
    (tmp_path / "new.txt").write_text("<think>\nsurgeonsurgeon\n")
    extend(str(model), tmp_path / "out", ExtendOptions(tokens=tmp_path / "new.txt"))
    old, new = (AutoTokenizer.from_pretrained(d).get_vocab() for d in (model, tmp_path / "out"))
    assert old.items() <= new.items() and old["<think>"] == 700
    assert "'<think>' is an added token of the model already" in caplog.text


def test_an_added_character_is_not_learnt(kinds):
    """It is no character in bytes, whatever the model's own vocabulary lacks."""
    spec, tokenizer = opened(kinds["spm"])
    spec["added_tokens"].append(spec["added_tokens"][0] | {"id": len(tokenizer.get_vocab()), "content": "日"})
    (found,) = learnt_tokens(spec, Tokenizer.from_str(json.dumps(spec)), ["日 surgeon " * 50], 1)
    assert len(found.parts) == 2


def test_a_token_that_moves_is_refused(copy_of, tmp_path, text, monkeypatch):
    directory = copy_of("gpt")
    outside(directory, "<think>")
    model = save(tmp_path / "model", llama(701), AutoTokenizer.from_pretrained(directory))

    def twice(spec, additions, first):
        changed, n = extended_spec(spec, additions, first)
        return changed | {"model": changed["model"] | {"vocab": changed["model"]["vocab"] | {"<think>": first + n}}}, n

    monkeypatch.setattr("tokensurgeon.surgery.extend.extended_spec", twice)
    with pytest.raises(VerificationError, match="<think> would lose its id 700"):
        extend(str(model), tmp_path / "out", ExtendOptions(text=[text], add=5))


def test_an_old_merge_is_not_repeated():
    """A new merge may make what old ones go on from; those keep their places."""
    spec = {
        "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "decoder": None, "post_processor": None,
        "model": {
            "type": "BPE", "vocab": {p: i for i, p in enumerate(["a", "b", "c", "d", "ab", "abc"])},
            "merges": [["ab", "c"]],
        },
    }  # fmt: skip
    found = given_tokens(spec, Tokenizer.from_str(json.dumps(spec)), ["abcd"])
    assert [a.parts for a in found] == [("a", "b"), ("abc", "d")]


def test_truncation_and_padding_stay(copy_of, tmp_path):
    directory = copy_of("gpt")
    _, tokenizer = opened(directory)
    tokenizer.enable_truncation(99)
    tokenizer.enable_padding(pad_id=2, pad_token="<|im_end|>", length=50)
    tokenizer.save(str(directory / "tokenizer.json"))
    (tmp_path / "new.txt").write_text("surgeonsurgeon\n")
    extend(str(directory), tmp_path / "out", ExtendOptions(tokens=tmp_path / "new.txt"))
    _, new = opened(tmp_path / "out")
    assert new.truncation == tokenizer.truncation and new.padding == tokenizer.padding


def test_words_are_not_joined_with_punctuation_behind_them(kinds):
    """Pieces of the vocabulary have both, and nothing but this keeps words and commas apart."""
    spec, tokenizer = opened(kinds["spm"])
    assert any(p[:1].isalpha() and p[-1] in ",.;:(" for p in spec["model"]["vocab"])
    joints = [(a.parts[0][-1], a.parts[1][0]) for a in learnt_tokens(spec, tokenizer, [OTHER], 200) if a.parts]
    assert any(b.isalpha() for _, b in joints) and not any(a.isalnum() and b in ",.;:()='" for a, b in joints)


def test_the_command(kinds, tmp_path, text):
    arguments = ["extend", str(kinds["gpt"]), "--text", str(text), "--add", "9", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "9 tokens more" in " ".join(done.stdout.split())
    assert "with more tokens" in (tmp_path / "out/README.md").read_text() and (tmp_path / "out/report.html").is_file()
    told = CliRunner().invoke(app, [*arguments, "--overwrite", "--json", "--method", "normal", "--seed", "3"])
    content = json.loads(told.stdout)
    assert content["extended"]["tokens"] == 9 and content["method"]["name"] == "normal"
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "--overwrite" in again.stderr


def test_a_damaged_row_that_no_token_has_stays(copy_of):
    """Old rows are copied as they are; only a body that is run must give finite values."""
    directory = copy_of("spm")
    tensors = load_file(directory / "model.safetensors")
    tokens = len(AutoTokenizer.from_pretrained(directory))
    assert tokens < len(tensors[EMBEDDING]) - 1
    tensors[EMBEDDING][-1] = float("nan")
    old = VocabularyMatrices(tensors[EMBEDDING])
    plan = RowPlan.grown(len(old.embedding), [tokens])
    made = LearntRows.of(
        Mean(), torch.zeros(0, dtype=torch.int64), DonorSpace.without_donor(1, None), None, Resources()
    )
    new = assemble(old, plan, made).embedding
    assert new[-1].isnan().all() and torch.isfinite(new[tokens]).all()


def test_a_tokens_file_from_windows(kinds, tmp_path):
    """Its byte order mark and line ends are not parts of the tokens, and a line separator is."""
    (tmp_path / "tokens.txt").write_bytes("\ufeff surgeonwork\r\nzz\u2028yy\r\n".encode())
    assert read_lines("--tokens", tmp_path / "tokens.txt") == [" surgeonwork", "zz\u2028yy"]
    (tmp_path / "tokens.txt").write_text(" surgeonwork\n", "utf-16")
    with pytest.raises(InputError, match=r"--tokens .*looks like UTF-16"):
        extend(str(kinds["gpt"]), tmp_path / "out", ExtendOptions(tokens=str(tmp_path / "tokens.txt")))
