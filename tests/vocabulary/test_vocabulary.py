"""What tokens are: bytes, roles, and whether they are ever emitted."""

from __future__ import annotations

import json

import pytest
from tiny import byte_level, sentencepiece_bpe, unigram, wordpiece
from tokenizers import Tokenizer, models

from tokensurgeon import InputError, Vocabulary
from tokensurgeon.vocabulary import Role
from tokensurgeon.vocabulary.spelling import byte_alphabet

SENTENCE = "Numbers like 42 and naïve café words\n\tare here."


def test_byte_alphabet_is_the_one_that_tokenizers_uses():
    from tokenizers.pre_tokenizers import ByteLevel

    assert sorted(byte_alphabet()) == sorted(ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
    assert [byte_alphabet()[c] for c in "ĠĊéA"] == [0x20, 0x0A, 0xE9, 0x41]


@pytest.mark.parametrize("build", [byte_level, sentencepiece_bpe, unigram])
def test_emitted_tokens_spell_the_text(build):
    vocabulary = Vocabulary.from_tokenizer(build(900))
    data = b"".join(vocabulary.keys[i].data for i in vocabulary.encode(SENTENCE))
    assert data.decode().strip() == SENTENCE
    assert all(vocabulary.canonical[i] for i in vocabulary.encode(SENTENCE))


def test_every_canonical_text_token_is_found_by_its_bytes():
    for build in (byte_level, sentencepiece_bpe):
        vocabulary = Vocabulary.from_tokenizer(build(900))
        for data, token_id in vocabulary.text_ids().items():
            if data.decode("utf-8", "ignore").encode() == data:
                assert vocabulary.encode(data.decode()) == [token_id]


def test_byte_fallback_duplicates_are_not_canonical():
    vocabulary = Vocabulary.from_tokenizer(sentencepiece_bpe(900))
    digit, letter = vocabulary.pieces.index("<0x39>"), vocabulary.pieces.index("9")
    assert vocabulary.keys[digit] == vocabulary.keys[letter]
    assert not vocabulary.canonical[digit] and vocabulary.canonical[letter]
    assert vocabulary.text_ids()[b"9"] == letter


def test_bytes_that_utf8_never_uses_are_not_canonical():
    vocabulary = Vocabulary.from_tokenizer(byte_level(900))
    by_byte = {b: vocabulary.pieces.index(c) for c, b in byte_alphabet().items()}
    assert not any(vocabulary.canonical[by_byte[b]] for b in (0xC0, 0xC1, 0xF5, 0xFF))
    assert all(vocabulary.canonical[by_byte[b]] for b in (0x41, 0x20, 0xE2, 0x80))


def test_a_token_that_the_pre_tokenizer_cuts_is_not_canonical():
    spec = json.loads(byte_level(900).to_str())
    spec["model"]["vocab"]["xĠy"] = len(spec["model"]["vocab"])
    spec["model"]["merges"] += [["x", "Ġ"], ["xĠ", "y"]]
    spec["model"]["vocab"]["xĠ"] = len(spec["model"]["vocab"])
    vocabulary = Vocabulary.from_tokenizer(Tokenizer.from_str(json.dumps(spec)))
    assert not vocabulary.canonical[vocabulary.pieces.index("xĠy")]


def test_wordpiece_words_follow_a_space_and_continuations_do_not():
    vocabulary = Vocabulary.from_tokenizer(wordpiece(900))
    keys = {piece: vocabulary.keys[i].data for i, piece in enumerate(vocabulary.pieces)}
    assert keys["the"] == b" the" and keys["##e"] == b"e" and keys[","] == b","
    continuations = [i for i, p in enumerate(vocabulary.pieces) if p.startswith("##") and p[2:].isalpha()]
    assert sum(vocabulary.canonical[i] for i in continuations) > 0.8 * len(continuations)


def test_a_space_mark_in_an_added_token_is_literal():
    tokenizer = sentencepiece_bpe(900)
    tokenizer.add_special_tokens(["<｜begin▁of▁text｜>"])
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    token_id = vocabulary.pieces.index("<｜begin▁of▁text｜>")
    assert vocabulary.keys[token_id].data.decode() == "<｜begin▁of▁text｜>"
    assert vocabulary.keys[token_id].role is Role.CONTROL


def test_an_added_token_of_plain_text_is_text():
    tokenizer = byte_level(900)
    tokenizer.add_tokens(["\n\n\n\n\n"])
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    assert b"\n\n\n\n\n" in vocabulary.text_ids()


def test_text_and_control_token_of_the_same_spelling_differ():
    control = Vocabulary.from_tokenizer(sentencepiece_bpe(900))
    text = byte_level(900)
    text.add_tokens(["<s>"])
    plain = Vocabulary.from_tokenizer(text)
    assert b"<s>" in plain.text_ids()
    assert b"<s>" not in control.text_ids() and b"<s>" in control.literal_ids()


def test_truncation_and_padding_do_not_reach_the_vocabulary():
    tokenizer = byte_level(900)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    assert len(Vocabulary.from_tokenizer(tokenizer).encode("one two three four five six seven")) > 4
    assert len(Vocabulary.from_tokenizer(tokenizer).encode("a")) == 1


def test_a_word_level_tokenizer_is_refused():
    with pytest.raises(InputError, match="WordLevel"):
        Vocabulary.from_tokenizer(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))


def test_roles_from_declaration_and_template(gpt):
    vocabulary = Vocabulary.from_tokenizer(
        gpt, {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}, gpt.chat_template
    )
    start, end = gpt.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    other = gpt.convert_tokens_to_ids("<|endoftext|>")  # ends documents, whatever is declared
    assert vocabulary.roles.ids == {
        Role.TURN_START: (start,), Role.TURN_END: (end,), Role.BOS: (start,), Role.EOS: (other, end),
    }  # fmt: skip
    assert vocabulary.roles_of(start) == [Role.TURN_START, Role.BOS]


def test_turn_markers_without_a_template(spm):
    roles = Vocabulary.from_tokenizer(spm).roles.ids
    assert roles[Role.TURN_END] == (spm.convert_tokens_to_ids("<end_of_turn>"),)


def test_a_template_that_raises_is_ignored(gpt):
    roles = Vocabulary.from_tokenizer(gpt, {}, "{{ raise_exception('no') }}").roles.ids
    assert roles[Role.TURN_START] == (gpt.convert_tokens_to_ids("<|im_start|>"),)  # by name


def test_describe():
    vocabulary = Vocabulary.from_tokenizer(byte_level(900))
    assert vocabulary.describe(vocabulary.pieces.index("Ġ")) == "' '"
    assert vocabulary.describe(vocabulary.pieces.index("â")) == repr(b"\xe2")
    assert vocabulary.describe(0) == "<|endoftext|>"
    assert vocabulary.describe(10**6) == "#1000000 (no token)"
