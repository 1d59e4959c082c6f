"""Extending by special tokens: one id wherever the literal stands, rows by a stated rule."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny import fast, llama, save, unigram, wordpiece
from transformers import AutoTokenizer
from typer.testing import CliRunner

from tokensurgeon import ExtendOptions, InputError
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.cli.app import app
from tokensurgeon.surgery.extend import extend
from tokensurgeon.surgery.revert import revert
from tokensurgeon.surgery.special_rows import control_ids
from tokensurgeon.vocabulary.edit.special import special_spec

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
MARKS = {"<think>": "think", "</think>": ""}


@pytest.fixture(scope="module")
def kinds(zoo, tmp_path_factory):
    root = tmp_path_factory.mktemp("special")
    made = {name: zoo[name] for name in ("gpt", "spm", "untied")}
    uni = fast(unigram(500), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made["unigram"] = save(root / "unigram", llama(len(uni)), uni)
    words = fast(wordpiece(600), cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]")
    made["wordpiece"] = save(root / "wordpiece", llama(len(words)), words)
    return made


@pytest.mark.parametrize("kind", ["gpt", "spm", "untied", "unigram", "wordpiece"])
def test_a_literal_is_one_id_wherever_it_stands(kinds, tmp_path, kind):
    report = extend(str(kinds[kind]), tmp_path / "out", ExtendOptions(special=MARKS))
    old, new = (AutoTokenizer.from_pretrained(d) for d in (kinds[kind], tmp_path / "out"))
    first, text = len(old), "so<think>we add</think>4 <think> x"
    assert report.added == 2 and new.convert_tokens_to_ids(list(MARKS)) == [first, first + 1]
    assert old.get_vocab().items() <= new.get_vocab().items()
    ids = new(text, add_special_tokens=False)["input_ids"]
    assert [i for i in ids if i >= first] == [first, first + 1, first]
    assert "think" not in new.decode(ids, skip_special_tokens=True)
    assert set(MARKS) <= set(new.all_special_tokens)
    plain = "no marker here: x = 3\n"
    assert new(plain)["input_ids"] == old(plain)["input_ids"]
    template = "{{ messages[0].content }}<think>\n"
    rendered = new.apply_chat_template([{"role": "user", "content": "hi"}], chat_template=template, tokenize=False)
    assert new(rendered, add_special_tokens=False)["input_ids"].count(first) == 1


@pytest.mark.parametrize("kind", ["gpt", "untied"])
def test_rows_are_means_of_words_or_of_control_rows_and_reverting_is_exact(kinds, tmp_path, kind):
    extend(str(kinds[kind]), tmp_path / "out", ExtendOptions(special=MARKS))
    old, new = (load_file(d / "model.safetensors") for d in (kinds[kind], tmp_path / "out"))
    tokenizer, first = AutoTokenizer.from_pretrained(kinds[kind]), len(old[EMBEDDING])
    think = tokenizer("think", add_special_tokens=False)["input_ids"]
    used = tokenizer.convert_tokens_to_ids(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    )  # <repo> has no role and no place
    for name in (EMBEDDING, HEAD) if kind == "untied" else (EMBEDDING,):
        assert torch.equal(new[name][:first], old[name])
        assert torch.allclose(new[name][first], old[name][think].mean(0), atol=1e-6)
        assert torch.allclose(new[name][first + 1], old[name][used].mean(0), atol=1e-6)
    revert(str(tmp_path / "out"), str(kinds[kind]), tmp_path / "back")
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (kinds[kind] / name).read_bytes(), name


def test_a_donor_gives_the_rows_of_its_literals(kinds, tmp_path):
    """The donor's may be no special one (as Qwen3's <think> is not); words go before it, control rows behind."""
    donor = extend(str(kinds["spm"]), tmp_path / "donor", ExtendOptions(special={"<think>": "", "</think>": ""}))
    spec = json.loads((donor.out / "tokenizer.json").read_text())
    for token in spec["added_tokens"]:
        token["special"] &= "think" not in token["content"]
    (donor.out / "tokenizer.json").write_text(json.dumps(spec))
    asked = {"<think>": "", "</think>": "end", "<tool>": ""}
    (tmp_path / "new.txt").write_text(" surgeonsurgeon\n")
    options = ExtendOptions("ridge", special=asked, tokens=tmp_path / "new.txt", donor=str(donor.out))
    extended = extend(str(kinds["gpt"]), tmp_path / "out", options).content["extended"]
    rules = {token["token"]: token["row"] for token in extended["special"]}
    assert extended["by_donor"] == 1 and rules["<think>"].endswith("donor's row, by ridge")
    assert rules["</think>"].startswith("mean of the rows of 'e") and "control rows <|endoftext|>" in rules["<tool>"]
    alone = extend(str(kinds["gpt"]), tmp_path / "alone", ExtendOptions(special=asked, tokens=tmp_path / "new.txt"))
    a, b = (load_file(d / "model.safetensors")[EMBEDDING] for d in (tmp_path / "out", alone.out))
    assert torch.nonzero((a != b).any(dim=1)).flatten().tolist() == [len(a) - 3]


def test_what_is_there_is_left_or_promoted_with_its_row(kinds, tmp_path, caplog):
    base = kinds["gpt"]
    vocab = AutoTokenizer.from_pretrained(base).get_vocab()
    piece = next(p for p in vocab if p.isalpha() and p.isascii() and len(p) > 3)
    with pytest.raises(InputError, match="nothing to add"):
        extend(str(base), tmp_path / "none", ExtendOptions(special={"<|im_end|>": ""}))
    assert "'<|im_end|>': the model has it already" in caplog.text
    report = extend(str(base), tmp_path / "out", ExtendOptions(special={piece: "", "<|im_end|>": ""}))
    new = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert report.added == 0 and new.convert_tokens_to_ids(piece) == vocab[piece]
    assert new.decode(new(f"x{piece}y", add_special_tokens=False)["input_ids"], skip_special_tokens=True) == "xy"
    old, rows = (load_file(d / "model.safetensors")[EMBEDDING] for d in (base, tmp_path / "out"))
    assert torch.equal(old, rows)
    assert "ordinary token" in Manifest.read(tmp_path / "out").content["extended"]["special"][0]["row"]


@pytest.mark.parametrize(
    ("special", "message"),
    [
        ({" ": ""}, "is blank"),
        ({"Ġ": ""}, "stands for ' '"),
        ({"<a>": "", "a><b": "", "<|im_end|": ""}, "is cut in"),
        ({"<think>": 3}, "must be a table"),
    ],
)
def test_literals_that_cannot_be(kinds, tmp_path, special, message):
    with pytest.raises(InputError, match=message):
        extend(str(kinds["gpt"]), tmp_path / "out", ExtendOptions(special=special))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({}, "extra_special_tokens"),
        ({"extra_special_tokens": ["<a>"]}, "extra_special_tokens"),
        ({"extra_special_tokens": {"image_token": "<image>"}}, "additional_special_tokens"),
        ({"additional_special_tokens": ["<a>"], "extra_special_tokens": {}}, "additional_special_tokens"),
    ],
)
def test_settings_name_them_where_others_are_named(copy_of, tmp_path, given, key):
    directory = copy_of("gpt")
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    entry = {"content": "<repo>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    decoder = {"3": entry | {"special": True}}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | given | {"added_tokens_decoder": decoder}))
    extend(str(directory), tmp_path / "out", ExtendOptions(special={"<z>": "", "<think>": ""}))
    written = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    before = given.get(key) or []
    assert written[key] == [*before, "<z>", "<think>"]
    assert written["added_tokens_decoder"]["701"] == entry | {"content": "<think>", "special": True}


def test_near_copies_are_no_trained_control_rows(gpt):
    """Reserved tokens' rows, which training moved together; a row of zeros says nothing either."""
    from tokensurgeon.vocabulary import Vocabulary

    vocabulary = Vocabulary.from_tokenizer(gpt, {"bos_token": "<|im_start|>"})
    rows = torch.randn(len(gpt), 16, generator=torch.Generator().manual_seed(0))
    assert control_ids(vocabulary, "", rows) == [0, 1, 2]  # <repo> has no role and no place
    assert control_ids(vocabulary, "<repo>", rows) == [0, 1, 2, 3]
    rows[3] = rows[2] + 1e-3
    assert control_ids(vocabulary, "<repo>", rows) == [0, 1]
    rows[1] = rows[2]
    assert control_ids(vocabulary, "<repo>", rows) == [0]
    rows[0] = rows[2]
    assert control_ids(vocabulary, "<repo>", rows) == []


def test_a_unigram_piece_of_a_literal_never_wins(kinds):
    spec = json.loads((kinds["unigram"] / "tokenizer.json").read_text())
    changed, new, _ = special_spec(spec, ["<think>"], len(spec["model"]["vocab"]))
    assert changed["model"]["vocab"][new["<think>"]][1] == min(score for _, score in spec["model"]["vocab"])


def test_the_command_says_which_rule_each_row_took(kinds, tmp_path):
    arguments = ["extend", str(kinds["gpt"]), "--special", "<think>=think", "--special", "</think>"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    told = " ".join(done.stdout.split())
    assert done.exit_code == 0 and "<think> is 700; row: mean of the rows of" in told
    assert "</think> is 701; row: mean of the control rows <|endoftext|>, <|im_start|>, <|im_end|>" in told
    assert "`</think>` is special" in (tmp_path / "out/README.md").read_text()
    assert "mean of the control rows" in (tmp_path / "out/report.html").read_text()
