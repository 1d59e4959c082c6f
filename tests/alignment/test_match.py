"""Provenance of every row."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import byte_level, sentencepiece_bpe

from tokensurgeon import InputError, Provenance, Vocabulary, align


@pytest.fixture(scope="module")
def base(gpt):
    return Vocabulary.from_tokenizer(
        gpt,
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
        gpt.chat_template,
    )


@pytest.fixture(scope="module")
def donor(spm):
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return Vocabulary.from_tokenizer(spm, names)


def of(alignment, vocabulary, piece):
    token_id = vocabulary.pieces.index(piece)
    return Provenance(alignment.plan.provenance[token_id]), alignment.plan.source[token_id]


def test_copied_rows_mean_the_same_bytes(base, donor):
    aligned = align(base, donor)
    copied = aligned.plan.ids(Provenance.COPIED)
    assert len(copied) > 100
    for token_id in copied:
        source = aligned.plan.source[token_id]
        assert base.keys[source].data == donor.keys[token_id].data
        assert base.canonical[source] and donor.canonical[token_id]
    assert sum(aligned.plan.counts().values()) == aligned.plan.n_rows == len(donor)


def test_string_identity_is_not_used(base, donor):
    """``▁the`` and ``Ġthe`` are the same token; byte pieces are not the letters they look like."""
    aligned = align(base, donor)
    assert of(aligned, donor, "▁the") == (Provenance.COPIED, base.pieces.index("Ġthe"))
    assert of(aligned, donor, "\n") == (Provenance.COPIED, base.pieces.index("Ċ"))


def test_byte_fallback_duplicates_are_unreachable_not_copied(base, donor):
    aligned = align(base, donor)
    assert of(aligned, donor, "<0x41>") == (Provenance.UNREACHABLE, -1)
    assert len(set(aligned.plan.source[aligned.plan.ids(Provenance.COPIED)])) == len(
        aligned.plan.ids(Provenance.COPIED)
    )


def test_control_tokens_match_by_role(base, donor):
    aligned = align(base, donor)
    start, end = base.pieces.index("<|im_start|>"), base.pieces.index("<|im_end|>")
    assert of(aligned, donor, "<bos>") == (Provenance.ROLE, start)
    assert of(aligned, donor, "<eos>") == (Provenance.ROLE, base.pieces.index("<|endoftext|>"))
    assert of(aligned, donor, "<start_of_turn>") == (Provenance.ROLE, start)
    assert of(aligned, donor, "<end_of_turn>") == (Provenance.ROLE, end)
    # the base pads with its EOS; a copy of that row would halve EOS's probability
    assert of(aligned, donor, "<pad>") == (Provenance.UNREACHABLE, -1)


def test_numbered_placeholders_are_unreachable(base, donor):
    aligned = align(base, donor)
    assert all(of(aligned, donor, f"<unused{i}>")[0] is Provenance.UNREACHABLE for i in range(40))


def test_added_text_in_numbers_is_text(base):
    tokenizer = byte_level(600)
    tokenizer.add_tokens([str(year) for year in range(2000, 2030)])
    other = Vocabulary.from_tokenizer(tokenizer)
    assert of(align(base, other), other, "2024")[0] in (Provenance.RECONSTRUCTED, Provenance.COPIED)


def test_no_second_copy_of_eos():
    """Base: one token is BOS, EOS, UNK and padding. The donor's own padding and UNK must not become it too."""
    names = ("<padding>", "<unk>", "<pad>", "</s>")
    one = Vocabulary.from_tokenizer(
        byte_level(600, specials=("<|endoftext|>", "<other>")),
        {f"{role}_token": "<|endoftext|>" for role in ("bos", "eos", "unk", "pad")},
    )
    donor = Vocabulary.from_tokenizer(
        byte_level(600, specials=names), {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<padding>"}
    )
    aligned = align(one, donor)
    eos = one.pieces.index("<|endoftext|>")
    assert np.flatnonzero(aligned.plan.source == eos).tolist() == [donor.pieces.index("</s>")]


def test_control_tokens_match_by_literal_where_no_role_is_known(base):
    other = Vocabulary.from_tokenizer(byte_level(600, specials=("<repo>", "<other>")))
    aligned = align(base, other)
    assert of(aligned, other, "<repo>") == (Provenance.ROLE, base.pieces.index("<repo>"))
    assert of(aligned, other, "<other>")[0] is Provenance.RECONSTRUCTED
    assert aligned.unmapped == (other.pieces.index("<other>"),)


def test_padding_rows_and_rows_without_a_donor_row(base, donor):
    aligned = align(base, donor, n_rows=len(donor) + 5, donor_rows=len(donor) - 3)
    assert (aligned.plan.provenance[len(donor) :] == Provenance.PADDING).all()
    last = aligned.plan.provenance[len(donor) - 3 : len(donor)]
    assert set(last.tolist()) <= {Provenance.PADDING, Provenance.COPIED, Provenance.UNREACHABLE}


def test_base_ids_beyond_its_embedding_are_not_sources(base, donor):
    aligned = align(base, donor, base_rows=300)
    assert aligned.plan.source.max() < 300


def test_overrides(base, donor):
    token_id, two = donor.pieces.index("<unused3>"), base.encode(" the repository")
    aligned = align(base, donor, overrides={"<unused3>": " the repository"})
    assert aligned.overrides == {token_id: tuple(two)} and len(two) > 1
    assert aligned.plan.provenance[token_id] == Provenance.OVERRIDE and aligned.plan.source[token_id] == -1
    assert np.count_nonzero(aligned.plan.provenance == Provenance.OVERRIDE) == 1


def test_an_override_may_name_a_text(base, donor):
    aligned = align(base, donor, overrides={" the": "The"})
    assert list(aligned.overrides) == [donor.pieces.index("▁the")]


def test_an_override_of_a_letter_is_not_the_byte_spelled_like_it():
    other = Vocabulary.from_tokenizer(byte_level(600, text="é " * 500))
    (letter,) = other.encode("é")
    assert letter != other.pieces.index("é")  # that piece is the byte 0xE9
    assert list(align(other, other, overrides={"é": "e"}).overrides) == [letter]


def test_override_of_an_unknown_token(base, donor):
    with pytest.raises(InputError, match=r"--map 'no such token at all'"):
        align(base, donor, overrides={"no such token at all": "x"})
    with pytest.raises(InputError, match="at least one token"):
        align(base, donor, overrides={"<unused3>": ""})


def test_ids_that_do_not_fit(base, donor):
    with pytest.raises(InputError, match=r"--pad-to-multiple-of"):
        align(base, donor, n_rows=len(donor) - 1)


def test_no_shared_token():
    greek = "".join(chr(c) for c in range(0x391, 0x3C9))
    base = Vocabulary.from_tokenizer(_chars("abcdef", "<a>"))
    donor = Vocabulary.from_tokenizer(_chars(greek, "<b>"))
    with pytest.raises(InputError, match="share no token"):
        align(base, donor)


def _chars(alphabet, special):
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE({special: 0, **{c: i + 1 for i, c in enumerate(alphabet)}}, []))
    tokenizer.add_special_tokens([special])
    return tokenizer


def test_alignment_is_deterministic(base, donor):
    first, second = align(base, donor), align(base, donor)
    assert (first.plan.provenance == second.plan.provenance).all() and (first.plan.source == second.plan.source).all()


def test_sentencepiece_with_itself_copies_everything_that_is_emitted():
    vocabulary = Vocabulary.from_tokenizer(sentencepiece_bpe(900))
    aligned = align(vocabulary, vocabulary)
    assert aligned.plan.counts()["reconstructed"] == 0
    assert (aligned.plan.source[aligned.plan.anchors] == aligned.plan.anchors).all()
