"""Of every family of tokenizers: what comes out is marked as such, and its bytes are those of the text."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from tiny import TEXT, byte_level, sentencepiece_bpe, unigram, wordpiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tokensurgeon import Vocabulary
from tokensurgeon.vocabulary.segmentation import base_pieces
from tokensurgeon.vocabulary.streams import encoded_parts

SOME = TEXT[:12_000]
SCRIPTS = """the The return self naïve café Straße ﬁne № été e\u0301 Å ΑΒΓ слово Ещё שלום العربية हिन्दी ไทย
한국어 日本語の 中文 𠮷 🙂 👩‍👩‍👧 x1 2024 3.14 365 __init__ -> // · </w> ## 's I'm , … “”"""
WORDS = [*SCRIPTS.split(), "\u00a0", "\ufeff", "\u200b", "\x07", "\t", "\r\n", "\n\n", "  ", "    ", " "]


def _changed(build: Callable[..., Tokenizer], **changes: Any) -> Tokenizer:
    spec = json.loads(build(500, text=SOME).to_str())
    model = changes.pop("model", {})
    return Tokenizer.from_str(json.dumps(spec | changes | {"model": spec["model"] | model}))


def _bpe(normalizer: Any, pre_tokenizer: Any, decoder: Any, unk: str | None = "<unk>", **affix: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=unk, **affix))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    alphabet = pre_tokenizers.ByteLevel.alphabet() if isinstance(decoder, decoders.ByteLevel) else []
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False, **affix
    )
    tokenizer.train_from_iterator([SOME], trainer)
    return tokenizer


def _clip() -> Tokenizer:
    return _bpe(
        normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]),
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"'s|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        decoders.ByteLevel(),
        end_of_word_suffix="</w>",
    )


def _metaspace(mark: str, scheme: str) -> Tokenizer:
    return _bpe(None, pre_tokenizers.Metaspace(mark, scheme), decoders.Metaspace(mark, scheme))


def _replaced(mark: str) -> Tokenizer:
    return _bpe(
        normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)]),
        pre_tokenizers.Split(mark, "merged_with_next"),
        decoders.Sequence([decoders.Replace(mark, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
    )


def _cased() -> Tokenizer:
    tokenizer = wordpiece(500, text=SOME)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    return tokenizer


def _normalised_unigram() -> Tokenizer:
    tokenizer = unigram(400, text=SOME)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Lowercase()])
    return tokenizer


EXACT = {
    "byte-level": lambda: byte_level(500, text=SOME),
    "byte-level-ignore-merges": lambda: _changed(byte_level, model={"ignore_merges": True}),
    "byte-level-dropout": lambda: _changed(byte_level, model={"dropout": 0.3}),
    "sentencepiece": lambda: sentencepiece_bpe(900, text=SOME),
}
FAMILIES = EXACT | {
    "byte-level-prefix-space": lambda: _changed(
        byte_level,
        pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    ),
    "byte-level-nfkc": lambda: _changed(byte_level, normalizer={"type": "NFKC"}),
    "clip": _clip,
    "openai-gpt": lambda: _bpe(
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
        decoders.BPEDecoder("</w>"),
        end_of_word_suffix="</w>",
    ),
    "continuing-prefix": lambda: _bpe(
        None, pre_tokenizers.Whitespace(), decoders.WordPiece("##"), continuing_subword_prefix="##"
    ),
    "prepend-replace": lambda: _replaced("▁"),
    "prepend-replace-other-mark": lambda: _replaced("·"),
    "metaspace-always": lambda: _metaspace("▁", "always"),
    "metaspace-first": lambda: _metaspace("▁", "first"),
    "metaspace-never": lambda: _metaspace("▁", "never"),
    "metaspace-other-mark": lambda: _metaspace("·", "always"),
    "unigram": lambda: unigram(400, text=SOME),
    "unigram-nfkc-lowercase": _normalised_unigram,
    "wordpiece": lambda: wordpiece(500, text=SOME),
    "wordpiece-cased": _cased,
}


@cache
def family(name: str) -> tuple[Tokenizer, Vocabulary]:
    tokenizer = FAMILIES[name]()
    return tokenizer, Vocabulary.from_tokenizer(tokenizer)


def texts(n: int = 100) -> list[str]:
    choose = random.Random(0)
    pieces = [*WORDS, *SOME.split(" ")[:200]]
    return [choose.choice(["", " "]).join(choose.choices(pieces, k=6)) for _ in range(n)]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_id_that_comes_out_is_canonical(name):
    _, vocabulary = family(name)
    for text in texts():
        dead = [vocabulary.describe(i) for i in vocabulary.encode(text) if not vocabulary.canonical[i]]
        assert not dead, (text, dead)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_comes_out_spells_the_text(name):
    tokenizer, vocabulary = family(name)
    compared = 0
    for text in texts():
        keys = [vocabulary.keys[i] for i in vocabulary.encode(text)]
        if not all(key.is_text for key in keys):
            continue  # a character that this tokenizer does not know
        compared += 1
        data = b"".join(key.data for key in keys)
        if name in EXACT:
            assert data == text.encode()
        else:  # spaces are added and dropped by some
            assert _squeezed(data.decode()) == _squeezed(_normalised(tokenizer, text))
    assert compared > 5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_token_decodes_to_its_bytes(name):
    tokenizer, vocabulary = family(name)
    for data, token_id in vocabulary.text_ids().items():
        if data.decode("utf-8", "ignore").encode() == data:
            decoded = tokenizer.decode([token_id]).removesuffix("</w>")  # that of CLIP is taken off by its own class
            assert _squeezed(decoded).removeprefix("##") == _squeezed(data.decode())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_base_cuts_words_of_a_donor_as_running_text(name):
    _, base = family(name)
    _, donor = family("byte-level")
    ids = [i for data, i in donor.text_ids().items() if data.strip().isalpha() and data.isascii() and len(data) > 2]
    found = base_pieces(base, donor, ids, len(base))
    for token_id, pieces in zip(ids, found, strict=True):
        if not all(base.keys[i].is_text for i in base.encode(donor.keys[token_id].data.decode())):
            continue  # a letter that this tokenizer does not know
        spelled = b"".join(base.keys[piece].data for piece in pieces).decode()
        assert _squeezed(spelled).casefold() == _squeezed(donor.keys[token_id].data.decode()).casefold(), spelled
        assert all(base.canonical[piece] for piece in pieces)


STRETCHES = {
    "running text": SOME[:5000],
    "all scripts": "".join(texts(70)),
    "one letter": "a" * 4000,
    "no spaces": "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=4000)),
    "zeros": "\0" * 4000 + "a",
    "newlines": "\n" * 3000 + "x" + "\r\n" * 1000,
    "spaces": "x" + " " * 4000 + "y z",
    "emoji": "🙂👩‍👩‍👧" * 700,
    "numbers": "".join(random.Random(2).choices("0123456789", k=4000)),
    "accents": "e\u0301" * 2000,
    "control tokens": "a<unk> b<|endoftext|></s> [UNK]" * 150,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_in_parts_has_the_ids_of_the_whole(name, caplog):
    _, vocabulary = family(name)
    choose = random.Random(3)
    for kind, text in STRETCHES.items():
        cuts = [0, *sorted(choose.choices(range(len(text)), k=9)), len(text)]
        found = list(encoded_parts(vocabulary.encode, [text[a:b] for a, b in pairwise(cuts)], 1536))
        assert len(found) > 1 and [i for ids in found for i in ids] == vocabulary.encode(text), kind
    assert not caplog.records


def _normalised(tokenizer: Tokenizer, text: str) -> str:
    return text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)


def _squeezed(text: str) -> str:
    return "".join(text.replace("▁", " ").replace("·", " ").split())
