"""Number, whitespace and newline schemes."""

from __future__ import annotations

from tiny import byte_level
from tokenizers import Regex, pre_tokenizers

from tokensurgeon import Vocabulary
from tokensurgeon.vocabulary.schemes import compare_schemes

DIGITS = "".join(f"{i} " for i in range(3000))


def _digits(individual: bool):
    tokenizer = byte_level(1500, text=DIGITS)
    if individual:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), tokenizer.pre_tokenizer]
        )
    return Vocabulary.from_tokenizer(tokenizer)


def test_a_vocabulary_agrees_with_itself():
    assert compare_schemes(_digits(True), _digits(True)) == []


def test_digit_schemes_that_differ_are_reported_with_an_example():
    found = {d.kind: d for d in compare_schemes(_digits(True), _digits(False))}
    assert set(found) == {"numbers"}
    assert ("4 2", "42") in found["numbers"].examples


def test_a_space_before_a_number_is_not_a_number_scheme():
    spaced = byte_level(1500, text=DIGITS)
    spaced.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" |\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    kinds = {d.kind for d in compare_schemes(_digits(True), Vocabulary.from_tokenizer(spaced))}
    assert "numbers" not in kinds
