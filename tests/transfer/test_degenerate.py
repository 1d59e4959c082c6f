"""Matrices from which nothing can be learnt: every method makes finite rows of them, or refuses in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tokensurgeon import Alignment, InputError, RowPlan, build_rows
from tokensurgeon.baselines import METHODS, make_method
from tokensurgeon.transfer.rows import VocabularyMatrices

N_ANCHORS, N_NEW, DIM = 40, 10, 8


def normal(rows, seed=0, dim=DIM):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def rank(n, rows):
    return normal(rows, 1, n) @ normal(n, 2)


def near_constant(rows):
    return torch.ones(rows, DIM) + 1e-7 * normal(rows)


KINDS = {
    "zero": lambda rows: torch.zeros(rows, DIM),
    "constant": lambda rows: torch.full((rows, DIM), 0.3),
    "one row for all": lambda rows: normal(1).expand(rows, -1).clone(),
    "nearly constant": near_constant,
    "rank 1": lambda rows: rank(1, rows),
    "rank 2": lambda rows: rank(2, rows),
    "huge": lambda rows: 1e30 * normal(rows),
    "tiny": lambda rows: 1e-30 * normal(rows),
    "denormal": lambda rows: 1e-42 * normal(rows),
    "float16 extremes": lambda rows: (6e4 * normal(rows).sign()).half(),
    "float16 least": lambda rows: (6e-8 * normal(rows).sign()).half(),
    "two rows again and again": lambda rows: normal(2).repeat(-(-rows // 2), 1)[:rows],
    "normal": lambda rows: normal(rows, 3),
}
REFUSED = {"zero", "constant", "one row for all"}


def made(method, base, donor, *, anchors=N_ANCHORS, new=N_NEW, head=False):
    """Rows of ``new`` tokens, by anchors that are the first rows of both."""
    options = {"k": min(4, max(1, anchors))} if "k" in METHODS[method].__dataclass_fields__ else {}
    plan = RowPlan(np.array([0] * anchors + [3] * new, dtype=np.int8), np.array([*range(anchors), *[-1] * new]))
    pieces = [[i % len(base), (i + 1) % len(base)] for i in range(new)]
    sides = [VocabularyMatrices(m, m.clone() if head else None) for m in (base, donor)]
    return build_rows(*sides, Alignment(plan, {}, ()), method=make_method(method, options), pieces=pieces)


@pytest.mark.parametrize("side", ["base", "donor", "both"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_no_method_falls_over_a_degenerate_matrix(method, kind, side):
    rows = N_ANCHORS + N_NEW
    base = KINDS[kind](rows) if side != "donor" else normal(rows, 4)
    donor = KINDS[kind](rows) if side != "base" else normal(rows, 5)
    asks = make_method(method).needs == "donor"
    if kind in REFUSED and asks:
        with pytest.raises(InputError, match="holds nothing but"):
            made(method, base, donor)
        return
    new = made(method, base, donor).matrices.embedding
    assert new.dtype == base.dtype and torch.isfinite(new).all()


@pytest.mark.parametrize("method", METHODS)
def test_no_anchor_one_anchor_and_no_new_token_are_nothing_to_fall_over(method):
    base, donor = normal(20, 1), normal(20, 2)
    assert made(method, base, donor, anchors=10, new=0).matrices.embedding.shape == (10, DIM)
    assert torch.isfinite(made(method, base, donor, anchors=1).matrices.embedding).all()
    if make_method(method).needs == "donor":
        with pytest.raises(InputError, match="number of anchors, 0"):
            made(method, base, donor, anchors=0)
    else:
        assert torch.isfinite(made(method, base, donor, anchors=0).matrices.embedding).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_rows_that_nobody_needs_do_no_harm(method, value):
    base, donor = normal(60, 1), normal(60, 2)
    base[55], donor[55] = value, value
    for head in (False, True):
        matrices = made(method, base, donor, new=5, head=head).matrices
        assert torch.isfinite(matrices.embedding).all()
        assert matrices.head is None or torch.isfinite(matrices.head).all()
