"""Find anchors unlike the donor's others and new rows unlike the base's, and make such rows of their own text instead.

Whoever makes a donor chooses its rows, and with them the coefficients that are reused in the base: a token that is
harmless in the donor can be salient in the base (arXiv 2601.00065). The base is trusted, so its own rows are the
measure. A new row is an outlier by that of these signs which exceeds its limit most:

* ``norm``: it is longer than the base's rows;
* ``distance``: it lies farther from the base's mean row, in units of the base's deviation in each direction;
* ``weight``: one anchor alone contributes more than a long row;
* ``weights``: the anchors' contributions together exceed √k long rows, so that most of them cancel (what OMP leaves
  and a map adds counts in the other signs);
* ``loud``: on average over states that the base's head sees on text, it is likelier, its bias included, than any
  anchor; where the base is not run, its bias is three times as far above the median as any anchor's.

Limits of the first four are three times the median of the base's rows, or six robust deviations of their logarithm
where that is more. They need no forward pass, and a row that keeps to them can still be loud: an ordinary row turned
towards what all states have in common takes half of the probability. So the last is asked wherever the base is run.
How many rows of honest donors are beyond, and which attacks are not, is measured in ``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import torch

from tokensurgeon.alignment import Ids
from tokensurgeon.transfer.combine import weights_of
from tokensurgeon.transfer.learnt import LearntRows
from tokensurgeon.transfer.protocol import Pieces, Use, parts
from tokensurgeon.transfer.states import HeadStates, with_bias
from tokensurgeon.transfer.statistics import covariance, piece_rows, row_norms

__all__ = ["SIGNS", "Guarded", "Outlier", "Scale", "highest", "sound_anchors", "usual"]

SIGNS = ("norm", "distance", "weight", "weights", "loud")
_TIMES, _ANCHOR_TIMES, _DEVIATIONS = 3.0, 4.0, 6.0
_SAMPLE = 32_768
_ENOUGH = 4
"""Rows per dimension from which the anchors alone say how rows vary; fewer are too few, and all rows say it."""
_FLOOR = 1e-3
"""Of the mean variance: as much is added to that of each direction."""


def highest(measures: torch.Tensor, times: float = _TIMES) -> float:
    """The largest ordinary one of (n,) measures such as norms; infinite where none is above 0."""
    middle, deviation = _middle(measures)
    return math.inf if math.isnan(middle) else middle * math.exp(max(_DEVIATIONS * deviation, math.log(times)))


def sound_anchors(norms: torch.Tensor) -> torch.Tensor:
    """(n,) bool: which anchors' rows in the donor, of (n,) norms, are as long as the others, up to four times.

    An anchor that is a hundredth as long gets a coefficient that is a hundred times as large, while the base's row
    of it is as long as ever; one that is a hundred times as long bends every map.
    """
    middle, deviation = _middle(norms)
    if math.isnan(middle):
        return torch.ones(len(norms), dtype=torch.bool)
    sound = (norms.log() - math.log(middle)).abs() <= max(_DEVIATIONS * deviation, math.log(_ANCHOR_TIMES))
    return sound | ~norms.isfinite()  # NaN and infinity are damage, which is refused


def _middle(measures: torch.Tensor) -> tuple[float, float]:
    """Median of those that are finite and above 0, and the robust deviation of their logarithms; NaN without any."""
    logs = measures[(measures > 0) & measures.isfinite()].log()
    if not len(logs):
        return math.nan, 0.0
    middle = logs.median()
    return math.exp(float(middle)), 1.4826 * float((logs - middle).abs().median())


@dataclass(frozen=True, slots=True)
class Scale:
    """What the rows of one of the base's matrices are like.

    Attributes:
        mean: (dim,) float32.
        whitening: (dim, dim) float32; centred rows times this vary alike in all directions.
        norm: The limit of a row's norm.
        distance: The limit of a whitened row's norm.
    """

    mean: torch.Tensor
    whitening: torch.Tensor
    norm: float
    distance: float

    @classmethod
    def of(cls, rows: torch.Tensor) -> Scale:
        """Of (n, dim) rows of any floating dtype; those that hold NaN or infinity do not count."""
        some = rows[:: -(-len(rows) // _SAMPLE) or 1].float()
        mean, varying = covariance(some)
        least, whitening = _FLOOR * float(varying.diagonal().mean()), torch.zeros(len(mean), len(mean))
        if least > 0:
            varying.diagonal().add_(least)
            root, one = torch.linalg.cholesky(varying), torch.eye(len(mean), dtype=torch.float64)
            whitening = torch.linalg.solve_triangular(root, one, upper=False).T.float()
        return cls(mean, whitening, highest(row_norms(rows)), highest(row_norms((some - mean) @ whitening)))

    def excess(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, 2) float64: norm and distance of (n, dim) rows as multiples of their limits."""
        far = row_norms((rows - self.mean) @ self.whitening)
        return torch.stack([row_norms(rows) / self.norm, far / self.distance], dim=1)


def usual(matrix: torch.Tensor, known: torch.Tensor) -> torch.Tensor | slice:
    """Which of (rows, dim) say how rows vary: those of (n,) ``known`` ids, or all where these are few."""
    return known if len(known) >= _ENOUGH * matrix.shape[1] else slice(None)


class Outlier(NamedTuple):
    """A new row that was beyond a limit, and was made of its token's pieces instead.

    Attributes:
        id: The token's.
        sign: Which limit, of `SIGNS`.
        times: By how many times it was exceeded.
    """

    id: int
    sign: str
    times: float


class _Loudness:
    """How likely new rows of the head, with their biases, are on average, as multiples of the likeliest anchor."""

    def __init__(
        self, learnt: LearntRows, matrix: torch.Tensor, bias: torch.Tensor | None, states: HeadStates | None, use: Use
    ) -> None:
        bias, states = (None, None) if use == "input" else (bias, states)
        self._states = states if bias is None or states is None else states.with_constant()
        self._biases = repeat(None) if bias is None else (some[:, 0] for some in learnt.blocks(bias[:, None], use))
        self._middle, self._most = 0.0, 0.0
        own = usual(matrix, learnt.known)
        beside = None if bias is None else bias[own].float()
        if self._states is not None:
            self._most = float(self._states.mean_probability(with_bias(matrix[own].float(), beside)).max())
        elif beside is not None:
            self._middle = float(beside.median())
            self._most = _TIMES * (float(beside.max()) - self._middle)

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """(n,) of the next (n, dim) rows; without states, of their biases alone."""
        beside = next(self._biases)
        if self._states is not None:
            return self._states.mean_probability(with_bias(rows, beside)) / self._most
        if beside is None or self._most <= 0:
            return torch.zeros(len(rows))
        return (beside.float() - self._middle) / self._most


class Guarded:
    """Rows by what a method learnt from a donor, outliers replaced by the mean of the base's rows of their pieces.

    A token that was an outlier in one matrix is replaced in those that are made after it, and by `settle` in those that
    were made before.

    Attributes:
        times: (n_targets,) float64: by how many times each token's row exceeds a limit, the worst of all matrices;
            at most 1 for those that were left as they are.
        signs: (n_targets,) int64: places in `SIGNS` of what exceeds it.
    """

    def __init__(
        self,
        learnt: LearntRows,
        n_targets: int,
        pieces: Pieces | None,
        states: HeadStates | None = None,
        bias: torch.Tensor | None = None,
    ) -> None:
        """Of a method's rows.

        Args:
            learnt: What it learnt.
            n_targets: How many tokens it makes rows for.
            pieces: The tokens' texts in base tokens; without them outliers become the mean of all rows.
            states: What the base's head sees on text; without them it is not asked which rows are loud, but for biases.
            bias: (rows,) of the base's head.
        """
        self._learnt, self._n, self._pieces, self._states, self._bias = learnt, n_targets, pieces, states, bias
        self.times = torch.zeros(n_targets, dtype=torch.float64)
        self.signs = torch.zeros(n_targets, dtype=torch.int64)

    def outliers(self, ids: Ids) -> tuple[Outlier, ...]:
        """What was replaced until now, the worst first.

        Args:
            ids: (n_targets,) the tokens' ids.
        """
        order = self.times.argsort(descending=True, stable=True)
        return tuple(
            Outlier(int(ids[i]), SIGNS[self.signs[i]], float(self.times[i]))
            for i in order[: int((self.times > 1).sum())].tolist()
        )

    def blocks(self, matrix: torch.Tensor, use: Use) -> Iterator[torch.Tensor]:
        """See `tokensurgeon.transfer.learnt.RowMaker`."""
        judged = matrix.shape[1] > 1  # a bias alone says too little; it goes with its head's row
        if judged:
            scale, norms = Scale.of(matrix[usual(matrix, self._learnt.known)]), row_norms(matrix)
            loudness = _Loudness(self._learnt, matrix, self._bias, self._states, use)
        for part, rows in zip(parts(self._n), self._learnt.blocks(matrix, use), strict=True):
            if judged:
                loud = loudness.of(rows)
                terms = self._contributions(part, norms, use) / scale.norm
                excess = torch.cat([scale.excess(rows), terms, loud[:, None]], dim=1)
                worst, sign = torch.where(excess.isnan(), torch.inf, excess).max(dim=1)
                self.signs[part] = torch.where(worst > self.times[part], sign, self.signs[part])
                self.times[part] = torch.maximum(worst, self.times[part])
            bad = torch.nonzero(self.times[part] > 1).flatten()
            if len(bad):
                rows = rows.clone()  # may be one row expanded
                rows[bad] = self._of_pieces(matrix, (bad + part.start).tolist())
            yield rows

    def settle(self, made: torch.Tensor, matrix: torch.Tensor, ids: Ids) -> None:
        """Replace outliers in a matrix that was made when they were not known yet.

        Args:
            made: (rows, dim), is changed.
            matrix: (base rows, dim) what it was made of.
            ids: (n_targets,) the tokens' ids.
        """
        bad = torch.nonzero(self.times > 1).flatten()
        if len(bad):
            made[torch.from_numpy(ids)[bad]] = self._of_pieces(matrix, bad.tolist()).to(made.dtype)

    def _contributions(self, part: slice, norms: torch.Tensor, use: Use) -> torch.Tensor:
        """(n, 2) float64: the norm of the largest term of each combination, and all norms over √k; 0 without one.

        Rows of the head that are made by what was learnt for the input were judged there.
        """
        fitted = self._learnt.shared if use != "head" or self._learnt.head is None else self._learnt.head
        weights = weights_of(fitted)
        if weights is None:
            return torch.zeros(part.stop - part.start, 2, dtype=torch.float64)
        some, found = weights.coefficients[part], torch.zeros(part.stop - part.start, 2, dtype=torch.float64)
        terms = some.values.abs() * norms[self._learnt.known if weights.ids is None else weights.ids][some.indices]
        found[: len(some)] = torch.stack([terms.amax(dim=1), terms.sum(dim=1) / math.sqrt(terms.shape[1])], dim=1)
        return found

    def _of_pieces(self, matrix: torch.Tensor, positions: list[int]) -> torch.Tensor:
        """(n, dim) float32 rows of some tokens."""
        cut = Pieces.of([[] if self._pieces is None else self._pieces[i : i + 1].ids.tolist() for i in positions])
        return piece_rows(matrix, cut)
