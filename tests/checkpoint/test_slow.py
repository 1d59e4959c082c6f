"""Tokenizers without a tokenizer.json: tekken, versioned SentencePiece files, and what cannot be read."""

from __future__ import annotations

import base64
import json
import shutil

import pytest
from tiny import byte_level

from tokensurgeon import InputError
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.vocabulary.spelling import byte_alphabet

PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
TEXTS = ("hello, 2 worlds", "  naïve\n\n日本 🙂", "def f(x):\n\treturn x  # done")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9\n"


def ranks(size: int = 500) -> list[bytes]:
    """Bytes first, as tiktoken has them."""
    spec = json.loads(byte_level(size).to_str())
    table = byte_alphabet()
    found = [bytes(table[c] for c in piece) for piece in spec["model"]["vocab"] if piece != "<|endoftext|>"]
    return sorted(found, key=lambda data: (len(data) > 1, data if len(data) == 1 else b""))


def tekken(**changes) -> dict:
    data = ranks()
    vocab = [
        {"rank": i, "token_bytes": base64.b64encode(one).decode(), "token_str": None} for i, one in enumerate(data)
    ]
    config = {"pattern": PATTERN, "default_vocab_size": 20 + 450, "default_num_special_tokens": 20, "version": "v3"}
    return {"config": config, "vocab": vocab, **changes}


def as_tiktoken(text: str) -> list[int]:
    """The ids that tiktoken gives for the file above, behind 20 control tokens."""
    import tiktoken

    table = {data: i for i, data in enumerate(ranks()[:450])}
    encoding = tiktoken.Encoding("tekken", pat_str=PATTERN, mergeable_ranks=table, special_tokens={})
    return [20 + i for i in encoding.encode(text)]


@pytest.fixture
def opened(tmp_path):
    def go(content: dict, name: str = "tekken.json"):
        (tmp_path / name).write_text(json.dumps(content))
        return TokenizerFiles.open(tmp_path)

    return go


def test_tekken_gives_the_ids_of_tiktoken_behind_its_control_tokens(opened, tmp_path):
    files = opened(tekken())
    plain = files.plain()
    for text in TEXTS:
        ids = plain.encode(text, add_special_tokens=False).ids
        assert ids == as_tiktoken(text) and plain.decode(ids) == text
    assert plain.get_vocab_size() == 470  # what lies beyond is not of the model
    assert plain.encode("[INST]a</s>").ids[:2] == [1, 3]  # BOS, and a control token
    assert files.special_ids() == {"unk_token": 0, "bos_token": 1, "eos_token": 2, "pad_token": 11}
    added = plain.get_added_tokens_decoder()
    assert len(added) == 20 and all(token.special for token in added.values())
    vocabulary = files.vocabulary()
    assert vocabulary.keys[20 + 97].data == b"a" and vocabulary.canonical[20 + 97]
    files.write(tmp_path / "out")
    again = TokenizerFiles.open(tmp_path / "out")
    assert again.digest() == files.digest() and again.special_ids() == files.special_ids()
    settings = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_token_that_no_two_others_make_comes_out_where_it_stands_alone(opened):
    """As tiktoken looks a piece of text up whole before it joins bytes."""
    encoded = [base64.b64encode(data).decode() for data in [*ranks()[:256], b"abc"]]
    plain = opened(tekken(vocab=[{"rank": i, "token_bytes": one} for i, one in enumerate(encoded)])).plain()
    assert plain.encode("abc", add_special_tokens=False).ids == [20 + 256]
    assert plain.encode("abca", add_special_tokens=False).ids == [20 + byte for byte in b"abca"]


def test_tekken_that_names_its_control_tokens(opened):
    named = ["<unk>", "<s>", "</s>", "[IMG]"]
    listed = [{"rank": i, "token_str": token, "is_control": True} for i, token in enumerate(named)]
    plain = opened(tekken(special_tokens=listed)).plain()
    assert [plain.id_to_token(i) for i in range(6)] == [*named, "<SPECIAL_4>", "<SPECIAL_5>"]
    assert plain.encode("a[IMG]", add_special_tokens=False).ids == [20 + 97, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {}}, r"tekken\.json is no tekken file that can be read \(KeyError: 'pattern'\)"),
        ({"vocab": [{"rank": 0}]}, r"tekken\.json is no tekken file that can be read \(KeyError: 'token_bytes'\)"),
        ({"vocab": [{"rank": 0, "token_bytes": "YQ=="}] * 2}, r"tekken\.json has a token twice"),
        ({"special_tokens": [{"rank": 30, "token_str": "<s>"}]}, r"1 control tokens, and room for 20"),
    ],
)
def test_a_damaged_tekken_file_is_named(opened, changes, message):
    with pytest.raises(InputError, match=message):
        opened(tekken(**changes))


@pytest.fixture
def trained(tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat  and looked at the other cat"] * 50), byte_fallback=True,
        model_prefix=str(tmp_path / "m"), vocab_size=320, model_type="bpe", normalization_rule_name="identity",
        remove_extra_whitespaces=False, control_symbols=["[INST]"], hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "m.vocab").unlink()
    return tmp_path / "m.model"


def test_a_versioned_sentencepiece_file_gives_the_ids_of_sentencepiece(trained, tmp_path):
    import sentencepiece

    own = sentencepiece.SentencePieceProcessor(str(trained))
    place = tmp_path / "model"
    place.mkdir()
    shutil.move(trained, place / "tokenizer.model.v3")
    files = TokenizerFiles.open(place)
    plain = files.plain()
    for text in (*TEXTS, "the cat  sat", " the", "   looked at"):
        ids = plain.encode(text, add_special_tokens=False).ids
        assert ids == own.encode(text) and plain.decode(ids) == text
    assert plain.encode("[INST]", add_special_tokens=False).ids == [own.piece_to_id("[INST]")]
    assert plain.encode("the").ids[0] == own.bos_id()
    assert files.special_ids() == {"unk_token": 0, "bos_token": 1, "eos_token": 2}


def test_a_tokenizer_model_gives_the_ids_of_sentencepiece_and_heeds_what_is_declared(trained, tmp_path):
    import sentencepiece

    own = sentencepiece.SentencePieceProcessor(str(trained))
    place = tmp_path / "model"
    place.mkdir()
    shutil.move(trained, place / "tokenizer.model")
    size = own.get_piece_size()
    (place / "added_tokens.json").write_text(json.dumps({"<extra>": size}))
    (place / "tokenizer_config.json").write_text(
        json.dumps({"add_bos_token": False, "tokenizer_class": "LlamaTokenizer"})
    )
    plain = TokenizerFiles.open(place).plain()
    for text in (*TEXTS, "the cat  sat", " the"):
        assert plain.encode(text).ids == own.encode(text)
    assert plain.encode("<extra>").ids == [size]


def test_the_last_of_several_versions_is_read(trained, tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    (place / "tokenizer.model.v1").write_bytes(b"other")
    shutil.move(trained, place / "tokenizer.model.v3")
    assert TokenizerFiles.open(place).plain().get_vocab_size() > 256


@pytest.mark.parametrize("name", ["tokenizer.model.v3", "tekken.json", "tokenizer.model"])
def test_a_file_that_is_none_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xfe nothing")
    with pytest.raises(InputError, match=name):
        TokenizerFiles.open(tmp_path)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer.model", "tokenizer.model.v3", "tekken.json", "qwen.tiktoken", "vocab.json"]
)
def test_a_pointer_of_git_lfs_is_called_one(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(InputError, match=f"{name} is a git-LFS pointer, not the file itself. Run git lfs pull in"):
        TokenizerFiles.open(tmp_path)
