"""Train fastText vectors of tokens on a text: the auxiliary space of WECHSEL and FOCUS, as in their papers.

fastText (Bojanowski et al. 2017, arXiv 1607.04606), by gensim, with the hyperparameters that the authors' packages
(``wechsel``, ``deepfocus``) set for the original program, as far as gensim has them. One thread, so that a seed
gives the same vectors every time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from tokensurgeon.alignment import Ids, Provenance, RowPlan
from tokensurgeon.errors import InputError, MissingDependencyError
from tokensurgeon.transfer.protocol import Auxiliary
from tokensurgeon.vocabulary import Vocabulary

__all__ = ["UNITS", "fasttext_space"]

Units = Literal["tokens", "words"]
UNITS: dict[str, Units] = {"focus": "tokens", "wechsel": "words"}
"""By method: what its paper trains the vectors of."""
_SETTINGS: dict[str, dict[str, Any]] = {
    "tokens": {"min_n": 3, "max_n": 6, "epochs": 3, "min_count": 10},
    "words": {"min_n": 5, "max_n": 5, "epochs": 20, "min_count": 5},
}
_COMMON = {"sg": 0, "window": 5, "negative": 10, "alpha": 0.05, "sample": 1e-4, "vector_size": 100, "workers": 1}
_LONGEST = 1000
"""Tokens of a sentence. gensim would drop what lies beyond 10,000."""
_LONGEST_LINE = 1 << 18
"""Characters of a line. One that goes on is read as several."""
_MOST_WORDS = 2_000_000
"""Of which occurrences are counted: of a text with more, gensim forgets the rarest on the way."""
_AFTER_NEWLINE = re.compile(r"(?<=\n)")
_WORD = re.compile(r"\w+|[^\w\s]+")


def fasttext_space(
    kind: Units,
    texts: Sequence[Iterable[str]],
    base: Vocabulary,
    donor: Vocabulary,
    plan: RowPlan,
    *,
    base_rows: int,
    seed: int = 0,
) -> Auxiliary:
    """Train vectors, and look up the tokens to reconstruct and those that the base knows.

    Args:
        kind: ``tokens`` trains on the text as the donor's tokenizer cuts it; anchors are the sources (FOCUS).
            ``words`` trains on words, and makes the vector of any token of either side from its text (WECHSEL).
        texts: To train on, each in parts; they are gone through several times.
        base: The base's vocabulary.
        donor: The donor's vocabulary.
        plan: Which of the donor's tokens are anchors, and which are to be reconstructed.
        base_rows: Only base ids below this have rows.
        seed: Of the training.

    Raises:
        InputError: If the text is too short to train on.
        MissingDependencyError: If gensim is not installed.
    """
    targets = plan.ids(Provenance.RECONSTRUCTED)
    if kind == "tokens":
        sentences = _Sentences(texts, lambda line: [str(donor.pieces[i]) for i in donor.encode(line)])
        vectors = _trained(kind, sentences, seed)

        def of(token_id: int) -> str:
            return str(donor.pieces[token_id])

        anchors = plan.anchors
        known = _looked_up(vectors, map(of, anchors.tolist()), inside_only=True)
        made = _looked_up(vectors, map(of, targets.tolist()), inside_only=True)
        return _without_empty(made, known, plan.source[anchors])
    vectors = _trained(kind, _Sentences(texts, _WORD.findall), seed)
    ids = np.flatnonzero(base.canonical[:base_rows])
    known = _looked_up(vectors, map(_text_of(base), ids.tolist()), inside_only=False)
    made = _looked_up(vectors, map(_text_of(donor), targets.tolist()), inside_only=False)
    return _without_empty(made, known, ids)


def _text_of(vocabulary: Vocabulary) -> Callable[[int], str]:
    def text(token_id: int) -> str:
        key = vocabulary.keys[token_id]
        return key.data.decode("utf-8", "ignore").strip() if key is not None and key.is_text else ""

    return text


@dataclass(frozen=True, slots=True)
class _Sentences:
    """Texts as lists of words or tokens, made anew each time that they are gone through."""

    texts: Sequence[Iterable[str]]
    cut: Callable[[str], list[str]]

    def __iter__(self) -> Iterator[list[str]]:
        for line in (line for text in self.texts for line in _lines(text) if line.strip()):
            words = self.cut(line)
            yield from (words[i : i + _LONGEST] for i in range(0, len(words), _LONGEST))


def _lines(parts: Iterable[str]) -> Iterator[str]:
    """Lines with their ends."""
    rest = ""
    for part in parts:
        *lines, rest = _AFTER_NEWLINE.split(rest + part)
        yield from lines
        while len(rest) > _LONGEST_LINE:
            end = rest.rfind(" ", 0, _LONGEST_LINE)
            end = end if end > 0 else _LONGEST_LINE
            yield rest[:end]
            rest = rest[end:]
    yield rest


def _trained(kind: str, sentences: _Sentences, seed: int) -> Any:
    try:
        from gensim.models import FastText
    except ImportError as error:
        raise MissingDependencyError("gensim", "fasttext", "space=fasttext") from error
    try:
        return FastText(sentences, seed=seed, max_vocab_size=_MOST_WORDS, **_COMMON, **_SETTINGS[kind]).wv
    except RuntimeError as error:  # no word occurs often enough
        raise InputError(
            f"the text is too short for fastText vectors: none of its {kind} occurs "
            f"{_SETTINGS[kind]['min_count']} times. Give more text"
        ) from error


def _looked_up(vectors: Any, words: Iterable[str], *, inside_only: bool) -> torch.Tensor:
    """(n, dim) float32; zeros for what is not in the vocabulary, or has no n-gram either."""
    inside = vectors.key_to_index
    rows = []
    for word in words:
        known = word in inside or (not inside_only and len(word) + 2 >= vectors.min_n)
        rows.append(vectors[word] if known else np.zeros(vectors.vector_size, dtype=np.float32))
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, vectors.vector_size)


def _without_empty(targets: torch.Tensor, sources: torch.Tensor, ids: Ids) -> Auxiliary:
    kept = sources.any(dim=1)
    return Auxiliary(targets, sources[kept], torch.from_numpy(ids.astype(np.int64))[kept])
