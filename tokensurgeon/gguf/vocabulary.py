"""Turn a tokenizer into the form that GGUF files hold it in: texts, types, scores, merges.

llama.cpp has no tokenizer.json. It knows two kinds that we write: ``gpt2``, byte-level BPE with merges, whose
pre-tokenizer is built into llama.cpp and chosen by name, and ``llama``, SentencePiece-like BPE, which merges the two
neighbours whose joint text has the highest score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.errors import InputError

__all__ = ["GgufVocabulary", "TokenType", "converter_knows", "gguf_vocabulary", "pre_tokenizer_name"]

_NEVER_MERGED = -1e6
_SPACE = "▁"

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_2 = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")

_IGNORES_MERGES = {"gpt-2": False, "smollm": False, "qwen2": False, "llama-bpe": True}
"""In src/llama-vocab.cpp, load."""


class TokenType(IntEnum):
    """``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """What llama.cpp will know of a tokenizer.

    Attributes:
        model: ``gpt2`` or ``llama``: llama.cpp's vocabulary type.
        pre: Name of the pre-tokenizer; None where llama.cpp has none like it.
        texts: By id, one per row of the embedding; ``[PAD…]`` where no token has the id.
        types: By id.
        scores: By id; None for ``gpt2``.
        merges: Pairs, joined by a space; None for ``llama``.
        special: ``bos``, ``eos``, ``pad``, ``unk``, ... to their ids.
        add_bos: Whether encoding puts BOS before a text.
        add_eos: Whether encoding puts EOS behind it.
        add_space_prefix: Whether a text is encoded as if it began with a space.
    """

    model: str
    pre: str | None
    texts: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] | None
    merges: tuple[str, ...] | None
    special: Mapping[str, int]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool

    def repeated(self) -> list[int]:
        """Ids whose text an earlier id has already."""
        first: dict[str, int] = {}
        return [i for i, text in enumerate(self.texts) if first.setdefault(text, i) != i]

    def missing_bytes(self) -> int:
        """How many of the 256 bytes a ``llama`` vocabulary cannot fall back to."""
        if self.model != "llama":
            return 0
        known = {text for text, kind in zip(self.texts, self.types, strict=True) if kind == TokenType.BYTE}
        return sum(f"<0x{byte:02X}>" not in known for byte in range(256))


def gguf_vocabulary(files: TokenizerFiles, rows: int) -> GgufVocabulary:
    """Translate a tokenizer.

    Args:
        files: The tokenizer.
        rows: Rows of the model's embedding; GGUF wants a text for each.

    Raises:
        InputError: If it is neither byte-level BPE nor SentencePiece-like BPE, or has ids beyond the rows.
    """
    tokenizer = files.plain()
    spec = json.loads(tokenizer.to_str())
    byte_level = _is_byte_level(spec)
    if spec["model"]["type"] != "BPE" or not (byte_level or spec["model"].get("byte_fallback")):
        raise InputError(
            f"{files.directory}: its tokenizer is {spec['model']['type']}; GGUF files are written for byte-level BPE "
            "(GPT-2, Llama-3, Qwen) and SentencePiece-like BPE with byte fallback (Llama-2, Gemma)"
        )
    pieces: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    top = max(pieces.values(), default=-1)
    if top >= rows:
        raise InputError(f"{files.directory}: token id {top} has no row in the embedding, which has {rows}")
    texts = [f"[PAD{i}]" for i in range(rows)]
    types = [TokenType.UNUSED] * rows
    for piece, token_id in pieces.items():
        texts[token_id], types[token_id] = piece, TokenType.NORMAL
    for added in spec["added_tokens"]:
        control = added["special"] or _looks_special(added["content"])
        types[added["id"]] = TokenType.CONTROL if control else TokenType.USER_DEFINED
        if not control:
            texts[added["id"]] = added["content"].replace(_SPACE, " ")
    special = {name.removesuffix("_token"): token_id for name, token_id in files.special_ids().items()}
    ids = tokenizer.encode("a").ids
    common: dict[str, Any] = {
        "texts": tuple(texts),
        "special": special,
        "add_bos": ids[:1] == [special.get("bos")],
        "add_eos": ids[-1:] == [special.get("eos")],
    }
    merges = [_pair(merge) for merge in spec["model"]["merges"]]
    if byte_level:
        return GgufVocabulary(
            model="gpt2",
            pre=pre_tokenizer_name(files),
            types=tuple(types),
            scores=None,
            merges=tuple(f"{left} {right}" for left, right in merges),
            add_space_prefix=False,
            **common,
        )
    for byte in range(256):
        if f"<0x{byte:02X}>" in pieces:
            types[pieces[f"<0x{byte:02X}>"]] = TokenType.BYTE
    if "unk" in special:
        types[special["unk"]] = TokenType.UNKNOWN
    scores = [_NEVER_MERGED] * rows
    for rank, (left, right) in reversed(list(enumerate(merges))):
        scores[pieces[left + right]] = -float(rank)
    prefix = json.dumps([spec["normalizer"], spec["pre_tokenizer"]])
    marks = ('"Prepend"', '"prepend_scheme": "always"', '"prepend_scheme": "first"')
    return GgufVocabulary(
        model="llama",
        pre="default",
        types=tuple(types),
        scores=tuple(scores),
        merges=None,
        add_space_prefix=any(mark in prefix for mark in marks),
        **common,
    )


def converter_knows(architecture: str) -> bool:
    """Whether llama.cpp's converter has an entry for a Hugging Face architecture."""
    return architecture in _table()["architectures"]


def pre_tokenizer_name(files: TokenizerFiles) -> str | None:
    """llama.cpp's name for a byte-level tokenizer's pre-tokenizer; None if it has none.

    As its own converter does, by the ids of a probe; that fails where ids have changed (a trimmed or extended
    vocabulary), and then by what the pre-tokenizer consists of. A name also says whether a word that is a token is
    taken before any merge (``ignore_merges``); where the tokenizer does otherwise, there is none like it.
    """
    spec = json.loads(files.tokenizer.to_str())
    digest = hashlib.sha256(str(files.plain().encode(_table()["probe"]).ids).encode()).hexdigest()
    name: str | None = _table()["pre_tokenizers"].get(digest)
    name = name or _by_structure(spec)
    ignores = bool(spec["model"].get("ignore_merges"))
    return name if name is None or _IGNORES_MERGES.get(name, ignores) == ignores else None


def _by_structure(spec: Mapping[str, Any]) -> str | None:
    parts = spec["pre_tokenizer"] or {}
    steps = parts["pretokenizers"] if parts.get("type") == "Sequence" else [parts]
    kinds = [step.get("type") for step in steps]
    if any(step.get("add_prefix_space") for step in steps) or (spec["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        return None
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        pattern = steps[0]["pattern"].get("Regex")
        return {_QWEN_2: "qwen2", _LLAMA_3: "llama-bpe"}.get(pattern)
    return None


def _is_byte_level(spec: Mapping[str, Any]) -> bool:
    return '"ByteLevel"' in json.dumps([spec["pre_tokenizer"], spec["decoder"]])


def _looks_special(text: str) -> bool:
    """As the converter judges added tokens that are not declared special (does_token_look_special)."""
    pairs = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        text.startswith(start) and text.endswith(end) for start, end in pairs
    )


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


@cache
def _table() -> dict[str, Any]:
    """Facts about llama.cpp that are not in the ``gguf`` package; the file says of which version."""
    content: dict[str, Any] = json.loads((Path(__file__).parent / "llama_cpp.json").read_text("utf-8"))
    content["architectures"] = frozenset(content["architectures"])
    return content
