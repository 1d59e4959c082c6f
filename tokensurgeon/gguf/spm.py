"""Check that llama.cpp will cut text as the tokenizer does, where it merges by score instead of by rule."""

from __future__ import annotations

import heapq
import re

from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.evaluation.texts import python_text
from tokensurgeon.gguf.vocabulary import GgufVocabulary, TokenType

__all__ = ["cut_by_score", "cut_otherwise"]

_SPACE = "▁"


def cut_otherwise(files: TokenizerFiles, vocabulary: GgufVocabulary, n_bytes: int = 16_384) -> str | None:
    """The first token of some text that a ``llama`` vocabulary cuts unlike the tokenizer it was made from, or None.

    SentencePiece joins whatever makes a known token; a tokenizer whose merges name only some of a token's splits
    does not, and scores cannot say so.
    """
    if vocabulary.model != "llama":
        return None
    text = python_text(n_bytes)
    theirs = cut_by_score(vocabulary, (" " if vocabulary.add_space_prefix else "") + text)
    own = files.plain().encode(text, add_special_tokens=False).ids
    return next((vocabulary.texts[b] for a, b in zip(own, theirs, strict=False) if a != b), None)


def cut_by_score(vocabulary: GgufVocabulary, text: str) -> list[int]:
    """Cut text as llama.cpp does with a ``llama`` vocabulary (src/llama-vocab.cpp, llm_tokenizer_spm_session)."""
    ids = {piece: i for i, piece in enumerate(vocabulary.texts)}
    whole = [piece for piece, i in ids.items() if vocabulary.types[i] == TokenType.USER_DEFINED and piece]
    parts = [text]
    if whole:
        pattern = "|".join(re.escape(piece) for piece in sorted(whole, key=len, reverse=True))
        parts = re.split(f"({pattern})", text)
    found: list[int] = []
    for number, part in enumerate(parts):
        found += [ids[part]] if number % 2 else _merged(vocabulary, ids, part.replace(" ", _SPACE))
    return found


def _merged(vocabulary: GgufVocabulary, ids: dict[str, int], text: str) -> list[int]:
    """Join the two neighbours whose joint text scores highest, the leftmost of equals, as long as there are any."""
    scores = vocabulary.scores or ()
    symbols = list(text)
    after = [*range(1, len(symbols)), -1]
    before = list(range(-1, len(symbols) - 1))
    queue: list[tuple[float, int, str]] = []

    def offer(left: int) -> None:
        if left >= 0 and after[left] >= 0:
            joint = symbols[left] + symbols[after[left]]
            if joint in ids:
                heapq.heappush(queue, (-scores[ids[joint]], left, joint))

    for left in range(len(symbols)):
        offer(left)
    while queue:
        _, left, joint = heapq.heappop(queue)
        right = after[left]
        if right < 0 or symbols[left] + symbols[right] != joint or not symbols[left]:
            continue
        symbols[left], symbols[right] = joint, ""
        after[left] = after[right]
        if after[right] >= 0:
            before[after[right]] = left
        offer(before[left])
        offer(left)
    unknown = vocabulary.special.get("unk", 0)
    cut: list[int] = []
    for symbol in filter(None, symbols):
        bytes_ = [ids.get(f"<0x{byte:02X}>", unknown) for byte in symbol.encode()]
        cut += [ids[symbol]] if symbol in ids else bytes_
    return cut
