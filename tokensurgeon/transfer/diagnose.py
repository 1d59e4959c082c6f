"""Find what the report shows of single tokens: how they are made, which of them are doubtful."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tokensurgeon.alignment import Ids, Provenance, RowPlan
from tokensurgeon.solver.omp import SparseCoefficients
from tokensurgeon.transfer.outliers import Outlier
from tokensurgeon.transfer.protocol import Pieces
from tokensurgeon.transfer.rows import NewRows, VocabularyMatrices
from tokensurgeon.transfer.states import HeadStates, with_bias
from tokensurgeon.transfer.statistics import mean_row, piece_means, row_norms
from tokensurgeon.vocabulary import Vocabulary

__all__ = [
    "DEVIATIONS", "LOUD", "agreement", "describe_outliers", "doubtful_tokens", "histogram", "norm_deviations",
    "reconstructions",
]  # fmt: skip

_BINS = 20
_LEADING = 5
_WORST, _TYPICAL, _LISTED = 20, 10, 12
DEVIATIONS = 6.0
LOUD = 1e-3
_ENDLESS = 1e9  # JSON has no infinity
_CHUNK = 4096


def histogram(relative: torch.Tensor) -> list[int]:
    """Counts of (n,) residuals relative to their targets, in twenty bins from 0 to 1; larger ones in the last."""
    counts: list[int] = torch.histc(relative.clamp(0, 1).float(), bins=_BINS, min=0, max=1).int().tolist()
    return counts


def reconstructions(
    base: Vocabulary, donor: Vocabulary, plan: RowPlan, rows: NewRows, norms: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    """Residuals, and the worst and some typical tokens with the anchors that weigh most in them.

    Args:
        base: Names the atoms.
        donor: Names the tokens.
        plan: Which tokens were reconstructed.
        rows: Their coefficients.
        norms: By tensor: (n_targets,) norms of what was approximated.

    Returns:
        By tensor: ``histogram``, ``worst`` and ``typical`` of those that are ``combined``; nothing for methods that do
        not combine anchors.
    """
    targets = plan.ids(Provenance.RECONSTRUCTED)
    found = {}
    for name, coefficients in rows.coefficients.items():
        nothing = coefficients.n_active == 0  # no vector in an auxiliary space, or a row of zeros
        own = norms[name][: len(coefficients)]  # of those that are combined
        relative = torch.where(nothing, 1.0, coefficients.residual / own.clamp(min=1e-12))
        order = relative.argsort(descending=True, stable=True)
        middle = order[len(order) // 4 : 3 * len(order) // 4]  # spread over the middle half
        typical = middle[torch.linspace(0, max(0, len(middle) - 1), min(_TYPICAL, len(middle))).long()]

        def shown(some: torch.Tensor, c: SparseCoefficients = coefficients, r: torch.Tensor = relative) -> list[Any]:
            return [
                {
                    "token": donor.describe(int(targets[i])),
                    "id": int(targets[i]),
                    "residual": round(float(r[i]), 4),
                    "atoms": _leading(base, c, rows.atoms, i),
                }
                for i in some.tolist()
            ]

        found[name] = {
            "histogram": histogram(relative),
            "median": float(relative.median()) if len(relative) else 0.0,
            "without": int(nothing.sum()),
            "combined": len(coefficients),
            "worst": shown(order[:_WORST]),
            "typical": shown(typical),
        }
    return found


def _leading(base: Vocabulary, coefficients: SparseCoefficients, atoms: torch.Tensor, i: int) -> list[list[Any]]:
    order = coefficients.values[i].abs().argsort(descending=True)[:_LEADING].tolist()
    return [
        [base.describe(int(atoms[coefficients.indices[i, j]])), round(float(coefficients.values[i, j]), 3)]
        for j in order
        if coefficients.values[i, j] != 0
    ]


def doubtful_tokens(
    donor: Vocabulary,
    plan: RowPlan,
    rows: NewRows,
    base_matrices: VocabularyMatrices,
    donor_matrices: VocabularyMatrices,
    pieces: Sequence[Sequence[int]],
    states: HeadStates | None,
) -> dict[str, Any]:
    """New tokens to look at before trusting a donor.

    A donor can be made so that a token which is harmless in it becomes salient in the base (arXiv 2601.00065). Three
    signs, each with its worst tokens:

    * ``norm``: the donor's row is much longer or shorter than others (six robust deviations of the log-norm);
    * ``pieces``: the new row is no nearer to the base's rows of the token's own text than to those of another
      token. The share of all new tokens for which this holds says how good the transplant is as a whole;
    * ``loud``: the new row takes more than 0.1% of the probability on average over text that the base reads; not
      asked where ``states`` are None.
    """
    targets = torch.from_numpy(plan.ids(Provenance.RECONSTRUCTED))
    if not len(targets):
        return {}
    norms = row_norms(donor_matrices.embedding)
    deviation = norm_deviations(norms[targets], norms)
    found: dict[str, Any] = {"norm": _listed(donor, targets, deviation, deviation > DEVIATIONS)}
    own, other = agreement(rows.matrices.embedding, targets, base_matrices.embedding, Pieces.of(pieces))
    astray = own <= other
    found["pieces"] = _listed(donor, targets, other - own, astray) | {"share": float(astray.float().mean())}
    if states is not None:
        head = (rows.matrices.embedding if rows.matrices.head is None else rows.matrices.head)[targets]
        if (bias := rows.matrices.bias) is not None:
            head, states = with_bias(head, bias[targets]), states.with_constant()
        mean = states.mean_probability(head)
        found["loud"] = _listed(donor, targets, mean, mean > LOUD)
    return found


def describe_outliers(donor: Vocabulary, n_targets: int, rows: Sequence[Outlier], anchors: Ids) -> dict[str, Any]:
    """Rows and anchors that were unlike the others, for the manifest.

    Args:
        donor: Names the tokens.
        n_targets: How many tokens were reconstructed.
        rows: Those whose rows were made of their pieces instead, the worst first.
        anchors: (n,) ids of anchors that were no atoms, for the length of their rows in the donor.
    """
    return {
        "count": len(rows),
        "of": n_targets,
        "signs": dict(sorted(Counter(row.sign for row in rows).items())),
        "tokens": [
            [donor.describe(row.id), row.sign, float(f"{min(row.times, _ENDLESS):.3g}")] for row in rows[:_LISTED]
        ],
        "ids": sorted(row.id for row in rows),
        "anchors": {
            "count": len(anchors),
            "tokens": [donor.describe(i) for i in anchors[:_LISTED].tolist()],
            "ids": anchors.tolist(),
        },
    }


def norm_deviations(norms: torch.Tensor, every: torch.Tensor) -> torch.Tensor:
    """(n,) how many robust deviations the logarithms of (n,) norms are from the median of ``every`` of the donor's.

    Where all norms are nearly one (Gemma-3 has 1.0003 at most), six deviations count as no less than twice the length.
    """
    usual = every[every > 0].log()
    middle = usual.median() if len(usual) else torch.zeros(())
    spread = 1.4826 * (usual - middle).abs().median() if len(usual) else torch.zeros(())
    return (norms.clamp(min=1e-38).log() - middle).abs() / spread.clamp(min=math.log(2) / DEVIATIONS)


def _listed(donor: Vocabulary, targets: torch.Tensor, measure: torch.Tensor, flagged: torch.Tensor) -> dict[str, Any]:
    order = torch.where(flagged, measure, -torch.inf).argsort(descending=True, stable=True)
    order = order[: min(_LISTED, int(flagged.sum()))]
    return {
        "count": int(flagged.sum()),
        "of": len(targets),
        "tokens": [[donor.describe(int(targets[i])), float(f"{float(measure[i]):.3g}")] for i in order],
    }


def agreement(
    rows: torch.Tensor, targets: torch.Tensor, base: torch.Tensor, pieces: Pieces
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine of every new row with the mean of its own text's pieces, and with that of another token.

    Rows are centred by the base's mean. Tokens whose text the base cannot spell agree by definition.
    """
    centre = mean_row(base)
    n = len(pieces)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))  # neighbours by id can be of one kind
    nearness, other = torch.ones(n), -torch.ones(n)
    before, spelled = piece_means(base, pieces.take(order[-1:])) - centre, pieces.lengths()[order[-1:]] > 0
    for some in torch.split(order, _CHUNK // 4):
        cut = pieces.take(some)
        real = cut.lengths() > 0
        own, row = piece_means(base, cut) - centre, rows[targets[some]].float() - centre
        theirs, known = torch.cat([before, own[:-1]]), torch.cat([spelled, real[:-1]])
        near = torch.nn.functional.cosine_similarity(row, own)
        far = torch.nn.functional.cosine_similarity(row, theirs)
        nearness[some] = torch.where(real, near, 1.0)
        other[some] = torch.where(real & known & (n > 1), far, -1.0)
        before, spelled = own[-1:], real[-1:]
    return nearness, other
