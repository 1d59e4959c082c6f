"""Define what every method gets and gives.

A method is *fitted* once on the donor's side, and what it learnt is then *applied* to each of the base's
matrices: input embedding, LM head, and the head's bias as a matrix of one column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch

__all__ = [
    "Auxiliary", "BaseRows", "DonorSpace", "Fitted", "Method", "Needs", "Pieces", "Resources", "Space", "Use",
    "all_rows", "parts",
]  # fmt: skip

_BLOCK = 8192

Use = Literal["input", "head", "both"]
Space = Literal["donor", "fasttext"]
Needs = Literal["nothing", "text", "donor", "fasttext"]
"""What a method goes by: nothing of the token, its text in the base's tokens, its donor row, or fastText vectors."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """The text of every target, cut by the base's tokenizer.

    Attributes:
        ids: (total,) int64, base ids of all targets' pieces end to end.
        starts: (n_targets,) int64, where each target's begin. A target may have none.
    """

    ids: torch.Tensor
    starts: torch.Tensor

    @classmethod
    def of(cls, pieces: Sequence[Sequence[int]]) -> Pieces:
        """From one list per target."""
        lengths = torch.tensor([len(p) for p in pieces], dtype=torch.int64)
        return cls(torch.tensor([i for p in pieces for i in p], dtype=torch.int64), lengths.cumsum(0) - lengths)

    def __len__(self) -> int:
        """Number of targets."""
        return len(self.starts)

    def __getitem__(self, part: slice) -> Pieces:
        """Those of some targets."""
        starts = self.starts[part]
        begin = int(starts[0]) if len(starts) else 0
        end = int(self.starts[part.stop]) if part.stop < len(self.starts) else len(self.ids)
        return Pieces(self.ids[begin:end], starts - begin)

    def take(self, places: torch.Tensor) -> Pieces:
        """Those of (n,) targets, in this order."""
        lengths = self.lengths()[places]
        starts = lengths.cumsum(0) - lengths
        shift = torch.repeat_interleave(self.starts[places] - starts, lengths)
        return Pieces(self.ids[torch.arange(len(shift)) + shift], starts)

    def lengths(self) -> torch.Tensor:
        """(n_targets,) int64, pieces of each."""
        return torch.diff(self.starts, append=torch.tensor([len(self.ids)]))


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """Vectors of donor and base tokens in a space that neither model made.

    Attributes:
        targets: (n_targets, dim) float32; zeros where a token has no vector.
        sources: (n_sources, dim) float32, none of them zero.
        ids: (n_sources,) int64, the base ids of the sources.
    """

    targets: torch.Tensor
    sources: torch.Tensor
    ids: torch.Tensor


@dataclass(frozen=True, slots=True)
class DonorSpace:
    """The donor's side of a problem.

    Attributes:
        targets: (n_targets, donor dim) rows of the tokens to reconstruct.
        anchors: (n_anchors, donor dim) rows of the tokens that the base has too.
        pieces: The targets in base tokens, for methods that go by text, if only in part.
        auxiliary: For methods that compare tokens there.
        ids: (n_anchors,) int64, the base ids of the anchors; None where they are not known.
    """

    targets: torch.Tensor
    anchors: torch.Tensor
    pieces: Pieces | None = None
    auxiliary: Auxiliary | None = None
    ids: torch.Tensor | None = None

    @classmethod
    def without_donor(cls, n: int, pieces: Pieces | None) -> DonorSpace:
        """``n`` targets that no donor has, for methods that need nothing or text alone."""
        return cls(torch.zeros(n, 0), torch.zeros(0, 0), pieces)


@dataclass(frozen=True, slots=True)
class BaseRows:
    """The base's side: one matrix.

    Attributes:
        every: (base rows, base dim), any floating dtype.
        anchors: (n_anchors, base dim), the rows of the anchors, in the order of `DonorSpace.anchors`.
        use: What the new rows are for; ``both`` where input and head are one matrix.
    """

    every: torch.Tensor
    anchors: torch.Tensor
    use: Use


@dataclass(frozen=True, slots=True)
class Resources:
    """What a fit may use.

    Attributes:
        device: Where to compute.
        exact: See `tokensurgeon.solve_omp`.
        memory: See `tokensurgeon.solve_omp`.
        seed: For methods that draw.
        progress: Called with (targets done, targets in all).
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    exact: bool = False
    memory: int | None = None
    seed: int = 0
    progress: Callable[[int, int], None] | None = None


class Fitted(Protocol):
    """What a method learnt."""

    def blocks(self, base: BaseRows) -> Iterator[torch.Tensor]:
        """New rows for one of the base's matrices: (some targets, base dim) float32 at a time, in their order.

        Blocks have the same sizes whatever was learnt on: those of `parts`.
        """
        ...


class Method(Protocol):
    """A frozen dataclass whose fields are the method's options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]

    @property
    def needs(self) -> Needs:
        """What it goes by."""
        ...

    def fit(self, space: DonorSpace, resources: Resources) -> Fitted:
        """Learn from the donor's side.

        Raises:
            InputError: If the problem is not one that the method can solve.
        """
        ...


def all_rows(fitted: Fitted, base: BaseRows) -> torch.Tensor:
    """(n_targets, base dim) float32, all of them in memory at once."""
    return torch.cat(list(fitted.blocks(base)))


def parts(n: int) -> Iterator[slice]:
    """Slices of at most 8,192 that cover ``n``; one empty slice for 0."""
    for start in range(0, max(n, 1), _BLOCK):
        yield slice(start, min(start + _BLOCK, n))
