"""Check what llama.cpp demands: conversion to GGUF, loading, and drafting for the target."""

from __future__ import annotations

from collections.abc import Iterator

from tokensurgeon.gguf.spm import cut_otherwise
from tokensurgeon.gguf.vocabulary import GgufVocabulary, converter_knows
from tokensurgeon.readiness.common import ids_in_range, rows_as_configured
from tokensurgeon.readiness.model import Candidate, Rule

__all__ = ["rules"]

_MAX_DIFFERENCE = 128
"""SPEC_VOCAB_MAX_SIZE_DIFFERENCE"""
_FIRST_COMPARED = 5
"""SPEC_VOCAB_CHECK_START_TOKEN_ID"""
_DRAFTS = "common/speculative.cpp, common_speculative_are_compatible"


def rules(model: Candidate, target: Candidate | None) -> Iterator[Rule]:
    """Rules of llama.cpp, as in llama-cpp-python 0.3.36 (file names are llama.cpp's)."""
    names = model.config.get("architectures") or []
    known = any(converter_knows(name) for name in names[:1])
    yield Rule(
        "architecture is known", known, ", ".join(names) or "none named",
        "a newer llama.cpp may know it", "conversion/base.py, from_model_architecture",
    )  # fmt: skip
    yield rows_as_configured(model, "src/llama-model.cpp: token_embd.weight has wrong shape")
    yield ids_in_range(model, "conversion/base.py, get_vocab_base: asserts max id < vocab_size")
    vocabulary = model.gguf
    yield Rule(
        "export can write its tokenizer", not isinstance(vocabulary, str),
        vocabulary if isinstance(vocabulary, str) else f"tokenizer.ggml.model = {vocabulary.model}",
        "choose a donor with byte-level or SentencePiece-like BPE",
        "tokensurgeon export; llama.cpp has WordPiece and Unigram too, and its own converter writes some of them",
    )  # fmt: skip
    if isinstance(vocabulary, str):
        return
    yield from _vocabulary(vocabulary)
    joined = cut_otherwise(model.tokenizer, vocabulary)
    yield Rule(
        "merging by score gives the tokenizer's tokens",
        joined is None,
        "on 16 kB" if joined is None else f"{joined!r} is joined otherwise",
        "choose a donor with a SentencePiece or byte-level tokenizer",
        "assumed: src/llama-vocab.cpp, llm_tokenizer_spm_session",
    )  # fmt: skip
    if target is None:
        return
    theirs = target.gguf
    if isinstance(theirs, str):
        yield Rule("the target has a GGUF vocabulary", False, theirs, "choose another target", "src/llama-vocab.cpp")
        return
    yield from _drafting(vocabulary, theirs, target.name)


def _vocabulary(found: GgufVocabulary) -> Iterator[Rule]:
    yield Rule(
        "pre-tokenizer is known", found.pre is not None, f"tokenizer.ggml.pre = {found.pre or 'none'}",
        "choose a donor whose pre-tokenizer llama.cpp has", "conversion/base.py, get_vocab_base_pre: not recognized",
    )  # fmt: skip
    merges = len(found.merges or ())
    yield Rule(
        "byte-level BPE has merges", found.model != "gpt2" or merges > 0, f"{merges} merges",
        "save the tokenizer with its merges", "src/llama-vocab.cpp, load: cannot find tokenizer merges in model file",
    )  # fmt: skip
    missing = found.missing_bytes()
    yield Rule(
        "every byte has a token to fall back to", not missing, f"{missing} of 256 are missing",
        "keep <0x00> to <0xFF> in the vocabulary", "src/llama-vocab.cpp, byte_to_token: std::out_of_range",
    )  # fmt: skip
    repeated = found.repeated()
    yield Rule(
        "no two ids have the same text", not repeated,
        f"id {repeated[0]} is {found.texts[repeated[0]]!r} again" if repeated else f"{len(found.texts)} texts",
        "rename the added token", "src/llama-vocab.cpp, load: asserts id_to_token.size() == token_to_id.size()",
    )  # fmt: skip


def _drafting(draft: GgufVocabulary, target: GgufVocabulary, name: str) -> Iterator[Rule]:
    remedy = f"give MODEL the target's tokenizer: tokensurgeon MODEL {name}"
    yield Rule(
        "same vocabulary type as the target", draft.model == target.model, f"{draft.model}, target {target.model}",
        remedy, _DRAFTS,
    )  # fmt: skip
    for token in ("bos", "eos"):
        added = [getattr(side, f"add_{token}") for side in (draft, target)]
        ids = [side.special.get(token) for side in (draft, target)]
        ok = added[0] == added[1] and (not added[1] or ids[0] == ids[1])
        yield Rule(
            f"same add_{token} as the target, and the same token", ok,
            f"{added[0]} (id {ids[0]}), target {added[1]} (id {ids[1]})",
            f"set add_{token}_token and the post-processor in tokenizer.json as the target has them", _DRAFTS,
        )  # fmt: skip
    difference = abs(len(draft.texts) - len(target.texts))
    yield Rule(
        f"at most {_MAX_DIFFERENCE} tokens more or fewer than the target", difference <= _MAX_DIFFERENCE,
        f"{len(draft.texts)}, target {len(target.texts)}", remedy, _DRAFTS,
    )  # fmt: skip
    pairs = zip(draft.texts[_FIRST_COMPARED:], target.texts[_FIRST_COMPARED:], strict=False)
    wrong = [(i, *pair) for i, pair in enumerate(pairs, _FIRST_COMPARED) if pair[0] != pair[1]]
    shown = f"{len(wrong)} differ; id {wrong[0][0]} is {wrong[0][1]!r}, target {wrong[0][2]!r}" if wrong else "all are"
    yield Rule(
        f"same text as the target for every id from {_FIRST_COMPARED} up", not wrong, shown, remedy, _DRAFTS
    )  # fmt: skip
