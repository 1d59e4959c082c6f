"""Read Mistral's ``tekken.json``: bytes and ranks as tiktoken has them, behind the control tokens."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from tokensurgeon.checkpoint.limits import LONGEST_TOKENIZER
from tokensurgeon.checkpoint.sentencepiece_bpe import begin_with, every_merge, refuse_long_pieces
from tokensurgeon.checkpoint.text import read_json
from tokensurgeon.errors import InputError, gave_up
from tokensurgeon.vocabulary.spelling import byte_alphabet
from tokensurgeon.vocabulary.token import MOST_IDS

__all__ = ["ROLES", "tekken_tokenizer"]

ROLES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
_FIRST = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
"""Of files that do not name their control tokens."""


def tekken_tokenizer(path: Path) -> Tokenizer:
    """The fast tokenizer that gives the ids which mistral-common gives, with BOS before a text.

    Raises:
        InputError: If the file is no such file.
    """
    content = read_json(path, limit=LONGEST_TOKENIZER)
    try:
        config = content["config"]
        control = _control_tokens(content, config)
        size = config.get("default_vocab_size")
        entries = content["vocab"][: None if size is None else size - len(control)]
        ranked = [base64.b64decode(entry["token_bytes"], validate=True) for entry in entries]
        pattern = Regex(config["pattern"])
    except Exception as error:  # a pattern that is none raises a bare one
        if not (isinstance(error, KeyError | TypeError | ValueError | AttributeError) or gave_up(error)):
            raise
        raise InputError(
            f"{path} is no tekken file that can be read ({type(error).__name__}: {error}). Fetch it again"
        ) from error
    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    spelled = ["".join(letters[byte] for byte in data) for data in ranked]
    vocab = {token: i for i, token in enumerate([*control, *spelled])}
    if len(vocab) < len(control) + len(spelled):
        raise InputError(f"{path} has a token twice")
    refuse_long_pieces(path, spelled)
    merges = every_merge(spelled, {token: i for i, token in enumerate(spelled)})  # no control token is a part
    tokenizer = Tokenizer(BPE(vocab, merges, fuse_unk=False, ignore_merges=True))
    split = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    if (bos := ROLES["bos_token"]) in control:
        begin_with(tokenizer, bos)
    return tokenizer


def _control_tokens(content: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """By id; those that have no name yet are numbered."""
    listed = content.get("special_tokens")
    named = dict(enumerate(_FIRST)) if listed is None else {one["rank"]: str(one["token_str"]) for one in listed}
    count = config.get("default_num_special_tokens") or len(named)
    if not 0 <= count < MOST_IDS or not all(0 <= rank < count for rank in named):
        raise ValueError(f"{len(named)} control tokens, and room for {count}")
    return [named.get(rank, f"<SPECIAL_{rank}>") for rank in range(count)]
