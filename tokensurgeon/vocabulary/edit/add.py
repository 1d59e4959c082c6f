"""Add tokens to a tokenizer as real ones: merges, scores or entries, not text that is looked for beforehand.

Byte pair encoding goes on where its training stopped: new merges come after all old ones, so that a text is first cut
as before and then its tokens are joined. Unigram pieces get the score of their frequency, or one just good enough to be
preferred to their parts; WordPiece takes the longest piece that is there.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from tokensurgeon.errors import InputError
from tokensurgeon.vocabulary.edit.pieces import Word, continuation, joined, merge_ranks, merged, vocab_of
from tokensurgeon.vocabulary.edit.words import added_texts, counted_words, own_pieces, symbols, words_of
from tokensurgeon.vocabulary.spelling import PieceReader, piece_reader

__all__ = ["Addition", "extended_spec", "given_tokens", "learnt_tokens"]

log = logging.getLogger(__name__)

_CONTEXTS = ("", "\n", "a", "(")
"""A tokenizer that puts a space before every text shows a token's own pieces only after something."""
_MARGIN = 0.1
"""Nats by which a Unigram piece is at least preferred to its parts."""


@dataclass(frozen=True, slots=True)
class Addition:
    """A join of two pieces, or a character that was spelled in bytes.

    Attributes:
        piece: As spelled in the vocabulary file; nearly always a new one.
        parts: What it is merged from; none for a character.
        share: How often the text had them side by side, as a share of its tokens; 0 where there was no text.
    """

    piece: str
    parts: Word
    share: float = 0.0


def learnt_tokens(spec: Mapping[str, Any], tokenizer: Tokenizer, texts: Iterable[str], n: int) -> list[Addition]:
    """The ``n`` most useful joins of neighbouring tokens, each found after the ones before it were made.

    Two tokens are joined where the tokenizer could do it: within what it treats as a word, and between kinds of
    characters that its own pieces join; where no pre-tokenizer parts words from the punctuation behind them, they are
    not joined. The most frequent pair comes first (Sennrich et al., arXiv 1508.07909).

    Args:
        spec: The parsed ``tokenizer.json``.
        tokenizer: The same, without truncation and padding.
        texts: To learn from.
        n: Tokens to add.

    Raises:
        InputError: If the text has fewer pairs that occur twice.
    """
    words = counted_words(words_of(spec, tokenizer, texts))
    found = list(itertools.islice(_Counts(spec, words).additions(), n))
    if len(found) < n:
        raise InputError(
            f"--add {n}: the text has only {len(found)} pairs of tokens that occur twice. Give more text, or "
            f"--add {len(found)}"
        )
    return found


def given_tokens(
    spec: Mapping[str, Any], tokenizer: Tokenizer, lines: Iterable[str], refused: list[str] | None = None
) -> list[Addition]:
    """What must be added for each line to become one token: itself, and what it is merged from on the way.

    Lines that the tokenizer has as added tokens are left out: they come out already, and keep their ids.

    Args:
        spec: The parsed ``tokenizer.json``.
        tokenizer: The same, without truncation and padding.
        lines: Texts; a space at the beginning counts.
        refused: Gets the lines that cannot be one token, which then are left out.

    Raises:
        InputError: If a line is cut before anything is merged, or cannot be spelled, and there is no such list.
    """
    known, prefix, read = set(own_pieces(spec)), continuation(spec), piece_reader(spec)
    merges, fallback = spec["model"]["type"] == "BPE", bool(spec["model"].get("byte_fallback"))
    added = added_texts(spec)
    ranks = merge_ranks(spec)  # the old ones go on where a new one makes what they begin with
    found: list[Addition] = []
    for line in lines:
        if line in added:
            log.warning("token %r is an added token of the model already; it is left as it is", line)
            continue
        try:
            parts, _ = merged(_cut(spec, tokenizer, line, read), ranks, prefix)
            if merges and (unknown := _unspelled(parts, known, added, fallback=fallback)):
                raise InputError(f"token {line!r} contains {unknown!r}, which this tokenizer does not join with others")
        except InputError:
            if refused is None:
                raise
            refused.append(line)
            continue
        if not merges:
            if (whole := joined(parts, prefix)) not in known:
                known.add(whole)
                found.append(Addition(whole, tuple(parts)))
            continue
        characters = [symbol for symbol in dict.fromkeys(parts) if symbol not in known]
        known |= set(characters)
        found += [Addition(symbol, ()) for symbol in characters]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            pair = next((p for p in pairs if joined(p, prefix) in known), pairs[0])  # one that costs no row first
            ranks[pair] = len(ranks)
            known.add(joined(pair, prefix))
            found.append(Addition(joined(pair, prefix), pair))
            parts, _ = merged(parts, ranks, prefix)
    return found


def _unspelled(parts: Iterable[str], known: set[str], added: set[str], *, fallback: bool) -> str | None:
    """The first part that is neither a piece nor a character that can become one."""
    missing = (symbol for symbol in parts if symbol not in known)
    return next((symbol for symbol in missing if not fallback or len(symbol) > 1 or symbol in added), None)


def extended_spec(spec: Mapping[str, Any], additions: Sequence[Addition], first: int) -> tuple[dict[str, Any], int]:
    """``tokenizer.json`` with more tokens.

    Args:
        spec: The parsed file.
        additions: In the order in which they are made.
        first: The first new id.

    Returns:
        The new content, and how many tokens are new: their ids are ``first`` and up, in the order given.
    """
    model = dict(spec["model"])
    added = {str(t["content"]): int(t["id"]) for t in spec.get("added_tokens", [])}
    old = added | vocab_of(spec)  # an added token that the model does not have gets its id from the model's size
    new = list(dict.fromkeys(a.piece for a in additions if a.piece not in old))
    if model["type"] == "Unigram":
        model["vocab"] = _scored(spec, additions, first)
    else:
        model["vocab"] = old | {piece: first + i for i, piece in enumerate(new)}
    if model["type"] == "BPE":
        as_text = model["merges"] and isinstance(model["merges"][0], str)
        pairs = [a.parts for a in additions if a.parts]
        model["merges"] = model["merges"] + [" ".join(pair) if as_text else list(pair) for pair in pairs]
    return dict(spec) | {"model": model}, len(new)


def _scored(spec: Mapping[str, Any], additions: Sequence[Addition], first: int) -> list[list[Any]]:
    """Unigram pieces are their places: added tokens that lie behind them are put among them."""
    vocab = [list(entry) for entry in spec["model"]["vocab"]]
    lowest = min(score for _, score in vocab)
    behind = {t["id"]: t["content"] for t in spec.get("added_tokens", [])}
    vocab += [[behind.get(i, f"<unused id {i}>"), lowest] for i in range(len(vocab), first)]
    scores: dict[str, float] = dict(vocab)
    for addition in additions:
        if addition.piece not in scores:
            parts = sum(scores.get(part, lowest) for part in addition.parts) + _MARGIN
            scores[addition.piece] = max(parts, math.log(addition.share)) if addition.share else parts
            vocab.append([addition.piece, scores[addition.piece]])
    return vocab


class _Counts:
    """Frequencies of joins in a text, kept up while joins are made."""

    def __init__(self, spec: Mapping[str, Any], words: Mapping[Word, int]) -> None:
        self.words = [list(word) for word in words]
        self.times = list(words.values())
        self.tokens = sum(len(word) * times for word, times in words.items())
        self.known, self.prefix = set(own_pieces(spec)), continuation(spec)
        self.counts: Counter[Word] = Counter()
        self.places: defaultdict[Word, set[int]] = defaultdict(set)
        self.changed: set[Word] = set()
        for i in range(len(self.words)):
            self._count(i, 1)

    def additions(self) -> Iterator[Addition]:
        """The most frequent join that is left, made before the next is looked for."""
        heap: list[tuple[int, Word]] = []
        while True:
            for candidate in self.changed:
                heapq.heappush(heap, (-self.counts[candidate], candidate))
            self.changed = set()
            while heap and -heap[0][0] != self.counts[heap[0][1]]:
                heapq.heappop(heap)  # counted again since
            if not heap or heap[0][0] > -2:
                return
            count, candidate = heapq.heappop(heap)
            piece = joined(candidate, self.prefix)
            self._join(candidate, piece)
            yield Addition(piece, candidate if len(candidate) > 1 else (), -count / self.tokens)

    def _join(self, candidate: Word, piece: str) -> None:
        places = sorted(self.places[candidate])
        for i in places:
            self._count(i, -1)
        self.known.add(piece)
        for i in places:
            if len(candidate) > 1:
                self.words[i], _ = merged(self.words[i], {candidate: 0}, self.prefix)
            self._count(i, 1)

    def _count(self, i: int, sign: int) -> None:
        word = self.words[i]
        for candidate, weight in self._candidates(word):
            self.counts[candidate] += sign * weight * self.times[i]
            self.changed.add(candidate)
            if sign > 0:
                self.places[candidate].add(i)

    def _candidates(self, word: Sequence[str]) -> Iterator[tuple[Word, int]]:
        for symbol in word:
            if symbol not in self.known:  # a character in bytes: all but one of them are saved
                yield (symbol,), len(symbol.encode()) - 1
        for pair in itertools.pairwise(word):
            if pair[0] in self.known and pair[1] in self.known and joined(pair, self.prefix) not in self.known:
                yield pair, 1


def _cut(spec: Mapping[str, Any], tokenizer: Tokenizer, line: str, read: PieceReader) -> list[str]:
    """The pieces of a text, all in one word.

    Raises:
        InputError: If it is not in one word, or not spelled by these pieces.
    """
    wanted = line
    if spec["model"]["type"] == "WordPiece":
        wanted = line.strip() if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(line.strip())
        wanted = read(wanted).decode()
    for context in _CONTEXTS:
        before = tokenizer.encode(context, add_special_tokens=False).ids
        encoding = tokenizer.encode(context + line, add_special_tokens=False)
        if encoding.ids[: len(before)] != before or encoding.ids == before:
            continue
        tokens = encoding.tokens[len(before) :]
        if b"".join(map(read, tokens)) != wanted.encode():
            continue
        if len(set(encoding.word_ids[len(before) :])) > 1:
            raise InputError(
                f"token {line!r} is cut into words before anything is merged ({' | '.join(tokens)}), so that it can "
                "never come out as one. Leave it out, or give its words on lines of their own"
            )
        return [symbol for symbol, _ in symbols((token, None) for token in tokens)]
    raise InputError(f"token {line!r} cannot be spelled by this tokenizer: it would come out as another text")
