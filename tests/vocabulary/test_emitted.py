"""Which ids come out: only in some context, never, or by no text of their own."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from tiny import byte_level, sentencepiece_bpe
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tokensurgeon import InputError, Vocabulary
from tokensurgeon.vocabulary import Role
from tokensurgeon.vocabulary.edit.drop import needed_ids, trimmed_spec
from tokensurgeon.vocabulary.plain import plain_tokenizer


def _small(cut: str, merges: list[tuple[str, str]], letters: str = "abxy!.", **options: Any) -> Tokenizer:
    """BPE of a few letters and what merges make of them, on text that is cut by a pattern."""
    vocab = list(dict.fromkeys([*letters, *("".join(pair) for pair in merges)]))
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(vocab)}, merges, **options))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(cut), "isolated")
    return tokenizer


def _is_canonical(tokenizer: Tokenizer, piece: str, **declared: Any) -> bool:
    vocabulary = Vocabulary.from_tokenizer(tokenizer, declared)
    return bool(vocabulary.canonical[vocabulary.pieces.index(piece)])


def test_a_token_that_comes_out_only_before_certain_text_is_canonical():
    tokenizer = _small(r"xy(?=\.)|.", [("x", "y"), ("a", "b")])
    assert tokenizer.encode("xy").tokens == ["x", "y"] and tokenizer.encode("xy.").tokens == ["xy", "."]
    assert _is_canonical(tokenizer, "xy")
    assert not _is_canonical(tokenizer, "ab")


def test_a_token_that_comes_out_only_between_certain_texts_is_canonical():
    assert _is_canonical(_small(r"(?<=\()xy(?=\))|.", [("x", "y")]), "xy")


@pytest.mark.parametrize("how", ["lstrip", "rstrip", "single_word", "normalized"])
def test_added_tokens_that_look_at_their_neighbours_are_canonical(how):
    tokenizer = byte_level(400)
    tokenizer.add_special_tokens([AddedToken("<mask>", special=True, **{how: True})])
    tokenizer.add_tokens([AddedToken("zqx", **{how: True})])
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    for literal in ("<mask>", "zqx"):
        token_id = tokenizer.token_to_id(literal)
        assert vocabulary.canonical[token_id] and vocabulary.keys[token_id].data == literal.encode()


def test_a_special_token_whose_literal_another_takes_apart_is_not_canonical():
    tokenizer = byte_level(400)
    tokenizer.add_special_tokens(["<a>", AddedToken("<a><b>", normalized=True, special=True)])
    assert "<a><b>" not in tokenizer.encode("x <a><b> y").tokens
    assert not _is_canonical(tokenizer, "<a><b>")
    assert _is_canonical(tokenizer, "<a><b>", eos_token="<a><b>")  # put in by its id
    assert _is_canonical(tokenizer, "<a>")


def test_tokens_that_normalisation_rewrites_are_not_canonical():
    tokenizer = _small(".", [], letters="aAﬁfi")
    assert _is_canonical(tokenizer, "A") and _is_canonical(tokenizer, "ﬁ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    assert not _is_canonical(tokenizer, "A") and not _is_canonical(tokenizer, "ﬁ") and _is_canonical(tokenizer, "f")


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_a_part_of_a_character_is_canonical_only_if_merges_make_it(ignore_merges):
    spec = json.loads(byte_level(300).to_str())
    model = spec["model"]
    made, unmade = "ĲĲ", "ĳĲ"  # bytes 0x90 and 0x91, in the middle of characters
    assert all(piece not in model["vocab"] for piece in (made, unmade))
    model["vocab"] |= {piece: len(model["vocab"]) + i for i, piece in enumerate((made, unmade))}
    model["merges"].append(["Ĳ", "Ĳ"])
    model["ignore_merges"] = ignore_merges
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    assert _is_canonical(tokenizer, made) and not _is_canonical(tokenizer, unmade)


def test_a_byte_piece_that_no_character_needs_is_not_canonical():
    spec = json.loads(sentencepiece_bpe(400).to_str())
    vocab = spec["model"]["vocab"]
    assert _is_canonical(Tokenizer.from_str(json.dumps(spec)), "<0xC3>")
    for code in range(0xC0, 0x100):
        vocab.setdefault(chr(code), len(vocab))
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    assert not _is_canonical(tokenizer, "<0xC3>") and _is_canonical(tokenizer, "<0xC2>")


def test_of_two_pieces_of_one_text_one_is_canonical():
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0), ("a", -3.0)], 0))
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    assert vocabulary.pieces[1] == vocabulary.pieces[3] == "a"
    assert vocabulary.canonical.tolist() == [True, False, True, True] and vocabulary.encode("a") == [3]


def test_two_pieces_of_one_id_are_refused():
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 0, "ab": 1}, [("a", "b")]))
    with pytest.raises(InputError, match=r"'a' and 'b' .* both have id 0"):
        Vocabulary.from_tokenizer(tokenizer)


def test_ids_with_holes_are_read_as_they_are():
    vocabulary = Vocabulary.from_tokenizer(Tokenizer(models.BPE({"a": 0, "b": 5, "ab": 9}, [("a", "b")])))
    assert [i for i, key in enumerate(vocabulary.keys) if key] == [0, 5, 9]
    assert vocabulary.canonical.nonzero()[0].tolist() == [0, 5, 9]


def test_a_declared_token_that_is_text_stays_text():
    tokenizer = byte_level(400)
    vocabulary = Vocabulary.from_tokenizer(tokenizer, {"pad_token": "!"})
    token_id = tokenizer.token_to_id("!")
    assert vocabulary.roles.ids[Role.PAD] == (token_id,) and vocabulary.text_ids()[b"!"] == token_id


def test_the_model_s_unknown_token_is_control_declared_or_not():
    tokenizer = _small(".", [], letters="ab", unk_token="a")
    assert Vocabulary.from_tokenizer(tokenizer).roles.ids == {Role.UNK: (0,)}
    marker = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    assert b"[UNK]" not in Vocabulary.from_tokenizer(marker).text_ids()


def test_a_spelling_that_is_not_known_is_refused():
    tokenizer = _small(".", [("d", "@")], letters="dr@")
    tokenizer.normalizer = normalizers.Replace("d", "d@")  # some mark the end of a word's parts so
    with pytest.raises(InputError, match=r"read as .*@.* does not know"):
        Vocabulary.from_tokenizer(tokenizer)


def test_dropout_is_left_out_while_reading():
    spec = json.loads(byte_level(500).to_str())
    spec["model"]["dropout"] = 0.5
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    assert len({tuple(vocabulary.encode("return self.value")) for _ in range(20)}) == 1
    assert vocabulary.canonical.sum() == Vocabulary.from_tokenizer(byte_level(500)).canonical.sum()
    assert tokenizer.model.dropout == 0.5  # the tokenizer that was given is left as it was
    assert json.loads(plain_tokenizer(tokenizer).to_str())["model"]["dropout"] is None


def test_a_tokenizer_with_a_prefix_of_continuations_is_trimmed():
    tokenizer = Tokenizer(
        models.BPE(
            {"a": 0, "##b": 1, "##c": 2, "ab": 3, "##bc": 4, "abc": 5, "##d": 6, "##cd": 7},
            [("##b", "##c"), ("a", "##bc"), ("a", "##b"), ("##c", "##d")],
            continuing_subword_prefix="##",
        )
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    spec = json.loads(tokenizer.to_str())
    kept = sorted(needed_ids(spec, {5}))
    assert [tokenizer.id_to_token(i) for i in kept] == ["a", "##b", "##c", "##bc", "abc", "##d"]
    trimmed = Tokenizer.from_str(json.dumps(trimmed_spec(spec, kept)))
    assert trimmed.encode("abc abd").tokens == ["abc", "a", "##b", "##d"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from procfs")
def test_tokenizers_that_are_read_leave_nothing_behind():
    tokenizer = byte_level(500)

    def read() -> int:
        Vocabulary.from_tokenizer(Tokenizer.from_str(tokenizer.to_str()))
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = read()
    assert [read() for _ in range(6)][-1] < before + (32 << 20)
