"""Know what may follow when only a part of a base token has been read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tokensurgeon.alignment import RowPlan
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.segmentation import base_pieces

__all__ = ["Inside", "Path", "Splits", "cut_tokens", "pieces_of"]

Path = tuple[int, ...]
"""Ids of one tokenization, the student's unless said otherwise, since a place at which both met."""


def cut_tokens(teacher: Vocabulary, student: Vocabulary, plan: RowPlan) -> list[list[int]]:
    """The student's ids for the bytes of each of the teacher's tokens.

    Args:
        teacher: The base's vocabulary.
        student: The transplanted model's.
        plan: Which of the student's tokens are the teacher's.

    Returns:
        By the teacher's id; one id for a shared token, nothing for what the student cannot spell.
    """
    cuts: list[list[int]] = [[] for _ in range(len(teacher))]
    for token in plan.anchors[::-1].tolist():  # of several, the first
        if plan.source[token] < len(cuts):
            cuts[plan.source[token]] = [token]
    return _with_others(cuts, teacher, student, plan.n_rows)


def pieces_of(teacher: Vocabulary, student: Vocabulary, plan: RowPlan) -> list[list[int]]:
    """The teacher's ids for the bytes of each of the student's tokens.

    Args:
        teacher: The base's vocabulary.
        student: The transplanted model's.
        plan: Which of the student's tokens are the teacher's.

    Returns:
        By the student's id; one id for a shared token, nothing for what is no text or what the teacher cannot spell.
    """
    pieces: list[list[int]] = [[] for _ in range(plan.n_rows)]
    for token in plan.anchors.tolist():
        if plan.source[token] < len(teacher):
            pieces[token] = [int(plan.source[token])]
    return _with_others(pieces, student, teacher, len(teacher))


def _with_others(found: list[list[int]], cut: Vocabulary, by: Vocabulary, limit: int) -> list[list[int]]:
    """With the ids, below a limit, of a vocabulary for those of another's tokens that have none yet."""
    keys = enumerate(cut.keys[: len(found)])
    others = [i for i, key in keys if not found[i] and key is not None and key.is_text and key.data]
    for token, pieces in zip(others, base_pieces(by, cut, others, limit), strict=True):
        found[token] = pieces
    return found


@dataclass(frozen=True, slots=True)
class Inside:
    """Tokens of the base that begin with what has been read.

    Attributes:
        longer: (n,) int64 ids of those that go on.
        token: (m,) int64, the student's ids that may follow, each once.
        index: (n,) int64, which of them each of ``longer`` goes on with.
        ended: (k,) int64 ids of those that end here.
    """

    longer: torch.Tensor
    token: torch.Tensor
    index: torch.Tensor
    ended: torch.Tensor


class Splits:
    """All beginnings of the base's tokens in the student's tokenization."""

    def __init__(self, cuts: Sequence[Sequence[int]]) -> None:
        """Sort the tokens by their beginnings.

        Args:
            cuts: As `cut_tokens` gives them.
        """
        self.cuts = cuts
        self.several = torch.tensor([len(cut) > 1 for cut in cuts], dtype=torch.bool)
        """Which of the base's tokens the student splits."""
        self.deepest = max(map(len, cuts), default=1) - 1
        """Ids that the longest beginning has."""
        self._longer: dict[Path, list[int]] = defaultdict(list)
        self._ended: dict[Path, list[int]] = defaultdict(list)
        self._known: dict[Path, Inside] = {}
        for token, cut in enumerate(cuts):
            for n in range(1, len(cut)):
                self._longer[tuple(cut[:n])].append(token)
        for token, cut in enumerate(cuts):
            if (path := tuple(cut)) in self._longer:
                self._ended[path].append(token)

    def at(self, path: Path) -> Inside | None:
        """What may follow, if any of the base's tokens goes on from there."""
        tokens = self._longer.get(path)
        if tokens is None:
            return None
        if path not in self._known:
            n = len(path)
            token, index = torch.unique(torch.tensor([self.cuts[t][n] for t in tokens]), return_inverse=True)
            ended = torch.tensor(self._ended.get(path, []), dtype=torch.int64)
            self._known[path] = Inside(torch.tensor(tokens), token, index, ended)
        return self._known[path]
