"""Turn SentencePiece, tiktoken, tekken or vocab/merges files into a fast tokenizer, by transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.declared import completed
from tokensurgeon.checkpoint.limits import LONGEST_TOKENIZER, refuse_long
from tokensurgeon.checkpoint.sentencepiece_bpe import is_readable, sentencepiece_tokenizer
from tokensurgeon.checkpoint.tekken import ROLES, tekken_tokenizer
from tokensurgeon.checkpoint.text import read_json_if_there, refuse_lfs_pointer
from tokensurgeon.errors import InputError, MissingDependencyError, gave_up
from tokensurgeon.vocabulary.token import literal_of

__all__ = ["SLOW_FILES", "convert_slow"]

SLOW_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
_VERSIONED = "*.model.v*"
"""Mistral's SentencePiece files, such as ``tokenizer.model.v3``."""


def convert_slow(directory: Path, declared: Mapping[str, Any]) -> Any:
    """A transformers tokenizer, of a directory without ``tokenizer.json``.

    Args:
        directory: Holds the files.
        declared: ``tokenizer_config.json`` merged with ``special_tokens_map.json``.

    Raises:
        InputError: If there is no tokenizer, or it cannot be converted; the message names the file.
    """
    path = _found(directory)
    refuse_lfs_pointer(path)
    refuse_long(path, LONGEST_TOKENIZER)
    try:
        if path.match("tekken*.json"):
            return _from_tekken(path)
        if path.suffix == ".tiktoken":
            return _from_tiktoken(path)
        readable = path.match("*.model*") and is_readable(path)
        if path.match(_VERSIONED) or (path.name == "tokenizer.model" and readable):
            return _from_sentencepiece(path, declared)
        return _auto(directory)
    except InputError:
        raise
    except ImportError as error:
        raise MissingDependencyError("sentencepiece, protobuf and tiktoken", "slow", str(directory)) from error
    except BaseException as error:
        if not (isinstance(error, Exception) or gave_up(error)):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path}: transformers cannot turn it into a fast tokenizer ({reason}). "
            "Save the tokenizer with save_pretrained first, so that there is a tokenizer.json"
        ) from error


def _found(directory: Path) -> Path:
    """The file that the tokenizer is made from; of several versions, the last."""
    tiktoken = sorted(directory.glob("*.tiktoken"))
    usual = [path for name in SLOW_FILES if (path := directory / name).is_file()]
    tekken = [path for path in (directory / "tekken.json", *sorted(directory.glob("tekken*.json"))) if path.is_file()]
    versioned = sorted(directory.glob(_VERSIONED))[::-1]
    if not (found := [*tiktoken, *tekken, *usual, *versioned]):
        raise InputError(
            f"{directory} has no tokenizer: none of tokenizer.json, {', '.join(SLOW_FILES)}, tekken.json, "
            f"*.tiktoken, {_VERSIONED} is there"
        )
    return found[0]


def _auto(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


def _from_tekken(path: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    backend = tekken_tokenizer(path)
    roles = {name: token for name, token in ROLES.items() if backend.token_to_id(token) is not None}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def _from_tiktoken(path: Path) -> Any:
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    return PreTrainedTokenizerFast(tokenizer_object=TikTokenConverter(vocab_file=str(path)).converted())


def _from_sentencepiece(path: Path, declared: Mapping[str, Any]) -> Any:
    """By the file itself: what transformers 5 makes of a ``tokenizer.model`` cuts text in another way."""
    from transformers import PreTrainedTokenizerFast

    backend, roles = sentencepiece_tokenizer(path, bos=declared.get("add_bos_token") is not False)
    more = read_json_if_there(path.parent / "added_tokens.json")
    known = {"added_tokens_decoder": {str(i): {"content": literal, "special": True} for literal, i in more.items()}}
    whole = completed(backend, {**known, **declared}) or backend
    named = {name: literal_of(declared.get(name)) or token for name, token in roles.items()}
    return PreTrainedTokenizerFast(tokenizer_object=whole, **named)
