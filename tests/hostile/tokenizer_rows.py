"""Hostile tokenizer.json, tekken.json and tokenizer.model."""

from __future__ import annotations

import json
from typing import Any

from attempts import Row
from edits import gone, padded, put, raw, some, truncated
from world import tekken

__all__ = ["ROWS"]

_FILE = "donor/tokenizer.json"
_SECTIONS = (
    "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder",
    "model", "model/type", "model/vocab", "model/merges", "model/unk_token", "model/byte_fallback", "model/dropout",
    "model/continuing_subword_prefix", "added_tokens/0", "added_tokens/0/id", "added_tokens/0/content",
    "added_tokens/0/special", "post_processor/special_tokens",
)  # fmt: skip
_UNIGRAM = ("model/unk_id", "model/vocab", "model/vocab/5", "model/vocab/5/1", "decoder", "pre_tokenizer/replacement")
_WORDPIECE = ("model/unk_token", "model/max_input_chars_per_word", "model/continuing_subword_prefix", "model/vocab/a")


def _split(**pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def _charsmap(data: str) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": data}


def _replace(content: str, times: int = 1, **pattern: str) -> dict[str, Any]:
    step = {"type": "Replace", "pattern": pattern, "content": content}
    return {"type": "Sequence", "normalizers": [step] * times}


def _strip(characters: int) -> dict[str, Any]:
    return {"type": "Strip", "content": "a", "start": characters, "stop": characters}


def _template(ids: Any, **special: Any) -> dict[str, Any]:
    first = {"SpecialToken": {"id": "z", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    table = {"z": {"id": "z", "ids": ids, "tokens": ["z"]} | special} if ids is not None else {}
    return {"type": "TemplateProcessing", "single": [first, text], "pair": [first, text], "special_tokens": table}


def _nested(kind: str, depth: int, leaf: dict[str, Any]) -> dict[str, Any]:
    for _ in range(depth):
        leaf = {"type": "Sequence", kind: [leaf]}
    return leaf


def _added(token_id: int, content: str = "<x>", **flags: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": token_id, "content": content, **plain, **flags}


_TRUNCATION = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5}
_PADDING = {"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<pad>"}  # fmt: skip
_PARTS = [
    ("a pattern of Split that is none", "pre_tokenizer", _split(Regex="(["), "tokenizer.json cannot be read"),
    ("a pattern of Split without end", "pre_tokenizer", _split(Regex=r"(?<x>a\g<x>?|\g<x>)"), "never ending recursion"),
    ("a pattern that takes exponential time", "pre_tokenizer", _split(Regex=r"(a+)+$|(\w+\s?)*z"), None),
    ("an empty pattern", "pre_tokenizer", _split(Regex=""), None),
    ("a pattern of Replace that is none", "normalizer", _replace("x", Regex="(["), "tokenizer.json cannot be read"),
    ("12 steps that make 10^12 characters of one", "normalizer", _replace("aaaaaaaaaa", 12, Regex="."), "normalizer"),
    ("a step that makes 10 MB of a character", "normalizer", _replace("a" * 10**7, String="e"), "normalizer"),
    ("a step that puts 10 MB before a text", "normalizer", {"type": "Prepend", "prepend": "a" * 10**7}, "normalizer"),
    ("an empty charsmap", "normalizer", _charsmap(""), "tokenizer.json"),
    ("no charsmap", "normalizer", _charsmap(None), "tokenizer.json"),
    ("a charsmap of 4 GB", "normalizer", _charsmap("/////w=="), "precompiled_charsmap"),
    ("a charsmap that is too short", "normalizer", _charsmap("CAAAAAAAAAD/////"), "tokenizer.json"),
    ("a charsmap whose trie points out of it", "normalizer", _charsmap("BAAAAP////8="), "tokenizer.json"),
    ("60 sequences, one in the other", "normalizer", _nested("normalizers", 60, {"type": "NFC"}), None),
    ("400 sequences, one in the other", "normalizer", _nested("normalizers", 400, {"type": "NFC"}), "recursion limit"),
    ("400 sequences of decoders", "decoder", _nested("decoders", 400, {"type": "Fuse"}), "recursion limit"),
    ("words of length 0", "pre_tokenizer", {"type": "FixedLength", "length": 0}, "tokenizer.json"),
    ("a Strip of more than there is", "decoder", _strip(5), None),
    ("a Strip of 2^64 characters", "decoder", _strip(2**64 - 1), None),
    ("a decoder that makes 10^12 characters of one", "decoder",
     {"type": "Sequence", "decoders": _replace("a" * 10, 12, Regex=".")["normalizers"]}, "decoder"),
    ("a template of a token that is not there", "post_processor", _template(None), "tokenizer.json"),
    ("a template with id 2^31", "post_processor", _template([2**31]), "tokenizer.json"),
    ("a template with more ids than tokens", "post_processor", _template([1, 2, 3]), None),
    ("a template with a million ids", "post_processor", _template([1] * 10**6), "tokenizer.json"),
    ("a template without ids", "post_processor", _template([]), None),
    ("a separator with id 2^31", "post_processor",
     {"type": "BertProcessing", "sep": ["x", 2**31], "cls": ["y", 1]}, "tokenizer.json"),
    ("truncation that steps over itself", "truncation", _TRUNCATION, None),
    ("padding to 2^40", "padding", _PADDING, None),
    ("padding with id 2^31", "padding", _PADDING | {"strategy": "BatchLongest", "pad_id": 2**31}, None),
    ("another model", "model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "WordLevel"),
    ("an empty vocabulary", "model", {"type": "BPE", "vocab": {}, "merges": []}, None),
    ("id 2^31", "model/vocab/the", 2**31, "2147483648"),
    ("id 2^32", "model/vocab/the", 2**32, "expected u32"),
    ("id -1", "model/vocab/the", -1, "expected u32"),
    ("an id twice", "model/vocab/the", 5, "both have id 5"),
    ("a piece of a million characters", "model/vocab/" + "x" * 10**6, 499, "both have id 499"),
    ("merges of pieces that are not there", "model/merges/0", ["q", "zzz"], "out of vocabulary"),
    ("merges in threes", "model/merges/0", ["a", "b", "c"], "MergeType"),
    ("a prefix longer than pieces", "model/continuing_subword_prefix", "x" * 10, "tokenizer.json"),
    ("an unknown token that is not there", "model/unk_token", "zz", None),
    ("dropout of 5", "model/dropout", 5.0, "Dropout"),
    ("added id 2^31", "added_tokens/0", _added(2**31), "do not fit"),
    ("added id -1", "added_tokens/0", _added(-1), "expected u32"),
    ("an added token without text", "added_tokens/0", _added(0, ""), None),
    ("an added token of a million characters", "added_tokens/1", _added(1, "x" * 10**6), "do not fit"),
    ("two added tokens with one id", "added_tokens/1", _added(0, "<y>"), "do not fit"),
]  # fmt: skip


_TOO_LATE = {
    "a Strip of more than there is": "cannot cut this text", "a Strip of 2^64 characters": "cannot cut this text",
    "truncation that steps over itself": "stride", "an empty vocabulary": "exceeds the 2 anchors",
    "a pattern that takes exponential time": "retry-limit",
}  # fmt: skip
"""What refuses a transplant, though the tokenizer alone can be read."""


def _with_charsmap(data: bytes) -> bytes:
    from sentencepiece import sentencepiece_model_pb2 as protocol

    model = protocol.ModelProto.FromString(data)
    model.normalizer_spec.precompiled_charsmap = b"\xff" * 4
    return bytes(model.SerializeToString())


ROWS = [
    *(Row(f"{part} is {name}", _FILE, put(part, value), "align", "tokenizer.json", True)
      for part, name, value in some(_SECTIONS, 5)),
    *(Row(f"{part} is gone", _FILE, gone(part), "align", "tokenizer.json", True) for part in _SECTIONS),
    *(Row(f"{part} is {name}", "unigram/tokenizer.json", put(part, value), "align unigram", "tokenizer.json", True)
      for part, name, value in some(_UNIGRAM, 4)),
    *(Row(f"{part} is {name}", "wordpiece/tokenizer.json", put(part, value), "align wordpiece", "tokenizer.json", True)
      for part, name, value in some(_WORDPIECE, 4)),
    *(Row(name, _FILE, put(part, value), "align", says) for name, part, value, says in _PARTS),
    *(Row(name, _FILE, put(part, value), "transplant", _TOO_LATE.get(name))
      for name, part, value, says in _PARTS if says is None),
    Row("is empty", _FILE, raw(""), "align", "tokenizer.json"),
    Row("is a list", _FILE, raw("[]"), "align", "tokenizer.json"),
    Row("is cut off", _FILE, truncated(0.5), "align", "tokenizer.json"),
    Row("is not UTF-8", _FILE, raw(b"\xff\xfe"), "align", "tokenizer.json"),
    Row("300 MB", _FILE, padded(300_000_000), "align", "tokenizer.json has"),
    Row("a key twice", _FILE, lambda data: data.replace(b'"decoder":', b'"decoder": null, "decoder":'), "align", None),
    Row("an escaped key hides a charsmap of 4 GB", _FILE,
        lambda data: put("normalizer", _charsmap("/////w=="))(data).replace(b"precompiled_", rb"p\u0072ecompiled_"),
        "align", "precompiled_charsmap"),
    Row("entries with ids of 5,000 digits", "donor/tokenizer_config.json",
        put("added_tokens_decoder", {"9" * 5_000: {"content": "<x>"}, "9" * 30: {"content": "<y>"}}), "transplant",
        "donor"),
    Row("added_tokens.json with id 10^30", "spiece/added_tokens.json", raw(json.dumps({"<x>": 10**30})), "align", None),
    *(Row(f"tekken: {key} is {name}", "tekken/tekken.json", tekken(**{key: value}), "align tekken", "tekken.json", True)
      for key, name, value in some(("pattern", "default_vocab_size", "default_num_special_tokens"), 2)),
    *(Row(f"tekken: {name}", "tekken/tekken.json", raw(json.dumps(content)), "align tekken", "tekken.json")
      for name, content in (
          ("nothing", {}), ("no vocabulary", {"config": {"pattern": "a"}}), ("null", {"config": None, "vocab": None}),
          ("bytes that are none", {"config": {"pattern": "a"}, "vocab": [{"token_bytes": "!"}]}),
          ("a token of a megabyte", {"config": {"pattern": "a"}, "vocab": [{"token_bytes": "YWFh" * 350_000}]}),
          ("a control token of rank 10^12", {"config": {"pattern": "a"}, "vocab": [],
                                             "special_tokens": [{"rank": 10**12, "token_str": "<s>"}]}),
          ("a control token of rank -1", {"config": {"pattern": "a"}, "vocab": [],
                                          "special_tokens": [{"rank": -1, "token_str": "<s>"}]}),
      )),
    Row("a control token that is a number", "tekken/tekken.json", raw(json.dumps(
        {"config": {"pattern": "a"}, "vocab": [], "special_tokens": [{"rank": 0, "token_str": 5}]})), "align tekken",
        "share no token"),
    Row("a pattern that is none", "tekken/tekken.json", tekken(pattern="(["), "align tekken", "tekken.json"),
    *(Row(name, "spiece/tokenizer.model", raw(data), "align spiece", "tokenizer.model") for name, data in (
        ("is empty", b""), ("is text", b"hello"), ("is zeros", bytes(1000)), ("is noise", bytes(range(256)) * 20))),
    Row("a charsmap of 4 GB", "spiece/tokenizer.model", _with_charsmap, "align spiece", "precompiled_charsmap"),
    Row("is cut off", "spiece/tokenizer.model", truncated(0.5), "align spiece", "tokenizer.model"),
    *(Row(name, "spiece/a.tiktoken", raw(data), "align spiece", says) for name, data, says in (
        ("is text", b"zzz", "a.tiktoken"), ("is not UTF-8", b"\xff 5", "share no token"),
        ("has ranks that are none", b"YQ== 99999999999999\nYg== x", "a.tiktoken"))),
]  # fmt: skip
