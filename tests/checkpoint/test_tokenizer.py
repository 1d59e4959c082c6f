"""Tokenizers as they lie in directories."""

from __future__ import annotations

import base64
import json

import pytest
from tiny import byte_level

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.vocabulary.spelling import byte_alphabet


def test_special_ids_and_digest(zoo):
    files = TokenizerFiles.open(zoo["gpt"])
    assert files.special_ids()["bos_token"] == files.tokenizer.token_to_id("<|im_start|>")
    assert files.chat_template and "<|im_start|>" in files.chat_template
    assert files.digest() != TokenizerFiles.open(zoo["spm"]).digest()


def test_write_copies_files_byte_for_byte(zoo, tmp_path):
    TokenizerFiles.open(zoo["gpt"]).write(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (zoo["gpt"] / name).read_bytes()


def test_tiktoken_files(tmp_path):
    """A .tiktoken file has bytes and ranks; the vocabulary must be those bytes."""
    spec = json.loads(byte_level(500).to_str())
    table = byte_alphabet()
    ranks = [bytes(table[c] for c in p) for p in spec["model"]["vocab"] if p != "<|endoftext|>"]
    lines = [f"{base64.b64encode(data).decode()} {rank}" for rank, data in enumerate(ranks)]
    (tmp_path / "vocab.tiktoken").write_text("\n".join(lines))
    files = TokenizerFiles.open(tmp_path)
    vocabulary = files.vocabulary()
    assert [key.data for key in vocabulary.keys] == ranks
    assert b"".join(ranks[i] for i in vocabulary.encode("hello, 2 worlds")) == b"hello, 2 worlds"
    files.write(tmp_path / "out")
    again = TokenizerFiles.open(tmp_path / "out").vocabulary()
    assert again.encode("hello, 2 worlds") == vocabulary.encode("hello, 2 worlds")


def test_sentencepiece_files(tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat and looked at the other cat"] * 50),
        model_prefix=str(tmp_path / "tokenizer"), vocab_size=300, model_type="bpe", byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    vocabulary = TokenizerFiles.open(tmp_path).vocabulary()
    assert b" the" in vocabulary.text_ids() and b" cat" in vocabulary.text_ids()
    assert not vocabulary.canonical[vocabulary.pieces.index("<0x61>")]


def test_no_tokenizer(tmp_path):
    with pytest.raises(InputError, match="has no tokenizer"):
        TokenizerFiles.open(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_files(copy_of, name):
    directory = copy_of("gpt")
    (directory / name).write_text("{ not json")
    with pytest.raises(InputError, match=name):
        TokenizerFiles.open(directory)


def test_dropout_is_for_training_and_not_written(copy_of, tmp_path):
    """With it, AutoTokenizer would cut by chance."""
    directory = copy_of("gpt")
    spec = json.loads((directory / "tokenizer.json").read_text())
    spec["model"]["dropout"] = 0.9
    (directory / "tokenizer.json").write_text(json.dumps(spec))
    files = TokenizerFiles.open(directory)
    files.write(tmp_path)
    written = json.loads((tmp_path / "tokenizer.json").read_text())
    assert written["model"].pop("dropout", 0) is None and spec["model"].pop("dropout") == 0.9
    assert written == spec
    expected = files.plain().encode("the same way each time").ids
    assert all(TokenizerFiles.open(tmp_path).tokenizer.encode("the same way each time").ids == expected for _ in "123")


def test_a_transplanted_tokenizer_has_no_dropout_and_is_verified(copy_of, zoo, tmp_path):
    donor = copy_of("spm")
    spec = json.loads((donor / "tokenizer.json").read_text())
    spec["model"]["dropout"] = 0.5
    (donor / "tokenizer.json").write_text(json.dumps(spec))
    report = transplant(str(zoo["gpt"]), str(donor), tmp_path / "out", TransplantOptions(k=8))
    assert all(check.ok for check in report.checks)
    assert json.loads((tmp_path / "out/tokenizer.json").read_text())["model"]["dropout"] is None
