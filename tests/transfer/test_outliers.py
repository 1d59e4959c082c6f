"""Rows that a hostile donor would make are found, and made of the token's own text."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tokensurgeon import Alignment, RowPlan, build_rows
from tokensurgeon.alignment import Provenance
from tokensurgeon.baselines import make_method
from tokensurgeon.transfer.calibrate import calibrate
from tokensurgeon.transfer.learnt import LearntRows
from tokensurgeon.transfer.omp import Omp
from tokensurgeon.transfer.outliers import Guarded, Scale, highest, sound_anchors
from tokensurgeon.transfer.protocol import DonorSpace, Pieces, Resources
from tokensurgeon.transfer.rows import VocabularyMatrices, atom_ids, odd_anchors
from tokensurgeon.transfer.states import HeadStates
from tokensurgeon.transfer.statistics import row_norms

N_ANCHORS, N_NEW, DIM = 600, 20, 32
VICTIM = N_ANCHORS + 7
PLAN = RowPlan(
    np.array([0] * N_ANCHORS + [3] * N_NEW, dtype=np.int8), np.array([*range(N_ANCHORS), *[-1] * N_NEW])
)  # fmt: skip
PIECES = [[i, i + 1] for i in range(N_NEW)]
OWN = [7, 8]


def normal(rows, seed, dim=DIM):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def base():
    return VocabularyMatrices(normal(N_ANCHORS, 0))


@pytest.fixture
def donor(base):
    """The base's rows turned, so that an honest method finds nearly all of them again."""
    turn = torch.linalg.qr(normal(DIM, 1)).Q
    return VocabularyMatrices(torch.cat([base.embedding, normal(N_NEW, 2)]) @ turn)


def made(base, donor, method=None, **given):
    return build_rows(base, donor, Alignment(PLAN, {}, ()), method=method or Omp(8), pieces=PIECES, **given)


def unguarded(base, donor, method=None):
    """The new rows as they came before there was a guard, anchors of any length included."""
    ids = torch.arange(N_ANCHORS)
    space = DonorSpace(donor.embedding[N_ANCHORS:], donor.embedding[ids], Pieces.of(PIECES))
    return torch.cat(
        list(LearntRows.of(method or Omp(8), ids, space, None, Resources()).blocks(base.embedding, "both"))
    )


@pytest.mark.parametrize("method", ["omp", "ridge", "procrustes", "focus", "neighbours", "wechsel"])
def test_an_honest_donor_is_left_as_it_is(base, donor, method):
    how = make_method(method, {"k": 8} if method == "omp" else {})
    new = made(base, donor, how)
    assert not new.outliers and not len(odd_anchors(PLAN, donor))
    assert torch.equal(new.matrices.embedding[N_ANCHORS:], unguarded(base, donor, how))


def test_an_anchor_of_a_hundredth_of_the_length_is_no_atom(base, donor):
    """Its coefficient would be a hundred times as large, and the victim's row with it."""
    donor.embedding[5] = 0.01 * torch.eye(DIM)[7]
    donor.embedding[VICTIM] = math.sqrt(DIM) * torch.eye(DIM)[7]
    limit = Scale.of(base.embedding).norm
    assert row_norms(unguarded(base, donor))[7] > 100 * limit
    new = made(base, donor)
    assert row_norms(new.matrices.embedding).max() <= limit
    assert odd_anchors(PLAN, donor).tolist() == [5] and 5 not in atom_ids(PLAN, donor) and 5 not in new.atoms
    assert torch.equal(new.matrices.embedding[5], base.embedding[5])  # still copied


@pytest.mark.parametrize(("length", "sign"), [(2.0, None), (40.0, ("norm", "weight"))])
def test_a_long_row_is_made_of_its_pieces(base, donor, length, sign):
    donor.embedding[VICTIM] = length * donor.embedding[3]
    new = made(base, donor)
    if sign is None:
        assert not new.outliers
        return
    (outlier,) = new.outliers
    assert (
        outlier.id == VICTIM and outlier.sign in sign and outlier.times > 10
    )  # one anchor's row is as long as its term
    torch.testing.assert_close(new.matrices.embedding[VICTIM], base.embedding[OWN].mean(dim=0))
    without = build_rows(base, donor, Alignment(PLAN, {}, ()), method=Omp(8))
    torch.testing.assert_close(without.matrices.embedding[VICTIM], base.embedding.mean(dim=0))
    assert not build_rows(base, donor, Alignment(PLAN), method=make_method("subtoken"), pieces=PIECES).outliers


def test_anchors_of_usual_length_that_are_nearly_one_are_found_by_what_they_add_up_to(base, donor):
    """Where the base's rows of the two are as near to each other, only the coefficients are large."""
    donor.embedding[:, -1] = 0  # nobody else is there
    donor.embedding[8] = donor.embedding[9] = math.sqrt(DIM) * torch.eye(DIM)[0]
    donor.embedding[9, -1] = 0.3
    donor.embedding[VICTIM] = math.sqrt(DIM) * torch.eye(DIM)[-1]
    base.embedding[8] = base.embedding[9]
    assert row_norms(unguarded(base, donor))[7] < Scale.of(base.embedding).norm
    (outlier,) = made(base, donor).outliers
    assert outlier.id == VICTIM and outlier.sign == "weight"


def test_a_row_that_lies_where_no_row_of_the_base_does_is_found(base):
    flat = base.embedding.clone()
    flat[:, 0] *= 0.05
    aside = torch.eye(DIM)[:1] * 3
    excess = Scale.of(flat).excess(torch.cat([aside, flat[:5]]))
    assert excess[0, 0] < 1 < excess[0, 1] and (excess[1:] < 1).all()


def loud(base):
    """States with much in common, and normalisers as the base's logits have them."""
    states = 4 * torch.nn.functional.normalize(torch.ones(DIM), dim=0) + 0.3 * normal(300, 4)
    return HeadStates(states, torch.logsumexp(states @ base.embedding.T, dim=1))


def test_a_row_turned_towards_all_states_is_found_where_the_base_is_run(base, donor):
    """The attack of arXiv 2601.00065: an ordinary row in the donor, a salient one in the base."""
    turn = torch.linalg.lstsq(base.embedding, donor.embedding[:N_ANCHORS]).solution
    wanted = torch.full((DIM,), 2.0)
    donor.embedding[VICTIM] = wanted @ turn
    states = loud(base)
    assert not made(base, donor, Omp(DIM)).outliers
    new = made(base, donor, Omp(DIM), states=states)
    assert [(outlier.id, outlier.sign) for outlier in new.outliers] == [(VICTIM, "loud")]
    highest_known = states.mean_probability(base.embedding).max()
    assert states.mean_probability(new.matrices.embedding[VICTIM : VICTIM + 1]) < highest_known
    before = new.matrices.embedding[VICTIM].clone()
    calibrate(new.matrices, base, donor, PLAN, states, kept={VICTIM})
    assert torch.equal(new.matrices.embedding[VICTIM], before)


def test_calibration_expects_of_no_token_more_than_of_the_likeliest_anchor(base, donor):
    states = loud(base)
    new = made(base, donor)
    donor.embedding[N_ANCHORS:] *= 1000
    calibrate(new.matrices, base, donor, PLAN, states)
    highest_known = states.mean_probability(base.embedding).max()
    assert (states.mean_probability(new.matrices.embedding[N_ANCHORS:]) < 1.1 * highest_known).all()


def test_what_is_an_outlier_in_one_matrix_is_none_of_the_method_in_any(base, donor):
    base = VocabularyMatrices(base.embedding, normal(N_ANCHORS, 8), normal(N_ANCHORS, 9, 1)[:, 0])
    donor = VocabularyMatrices(donor.embedding, normal(N_ANCHORS + N_NEW, 10))
    donor.embedding[VICTIM] = 40 * donor.embedding[3]
    new = made(base, donor).matrices
    torch.testing.assert_close(new.head[VICTIM], base.head[OWN].mean(dim=0))
    torch.testing.assert_close(new.bias[VICTIM], base.bias[OWN].mean())
    donor.head[VICTIM + 1] = 100 * donor.head[3]  # by its own coefficients
    new = made(base, donor)
    assert [o.id for o in new.outliers] == [VICTIM + 1, VICTIM]
    torch.testing.assert_close(new.matrices.embedding[VICTIM + 1], base.embedding[[8, 9]].mean(dim=0))
    donor.head[VICTIM] = 0  # and by those of the input, where the head says nothing
    assert {o.id for o in made(base, donor).outliers} == {VICTIM + 1, VICTIM}


def test_limits_are_wider_where_the_bases_own_rows_differ_more():
    assert highest(torch.full((100,), 2.0)) == pytest.approx(6)
    wide = torch.exp(torch.linspace(-3, 3, 101))
    assert highest(wide) > 100 and highest(torch.zeros(5)) == math.inf
    norms = torch.tensor([1.0, 1.1, 0.9, 0.0, 0.2, 3.0, 5.0, math.inf])
    assert sound_anchors(norms).tolist() == [True, True, True, False, False, True, False, True]
    assert sound_anchors(torch.zeros(3)).all()


def test_rows_do_not_depend_on_the_parts_they_come_in(base, donor, monkeypatch):
    donor.embedding[VICTIM] = 40 * donor.embedding[3]
    whole = made(base, donor)
    monkeypatch.setattr("tokensurgeon.transfer.protocol._BLOCK", 3)
    parted = made(base, donor)
    torch.testing.assert_close(parted.matrices.embedding, whole.matrices.embedding)
    assert [o.id for o in parted.outliers] == [o.id for o in whole.outliers] == [VICTIM]


def test_nothing_is_written_into_what_a_method_gives(base):
    """A method may give one row expanded."""
    learnt = LearntRows.of(make_method("mean"), torch.arange(0), DonorSpace.without_donor(4, None), None, Resources())
    guard = Guarded(learnt, 4, Pieces.of([[0], [1], [2], [3]]))
    guard.times[2] = 2.0
    (rows,) = guard.blocks(base.embedding, "both")
    assert torch.equal(rows[2], base.embedding[2])
    torch.testing.assert_close(rows[1], base.embedding.mean(dim=0))


@pytest.mark.parametrize("run", [True, False])
def test_a_row_that_is_loud_by_its_bias_is_an_outlier(run):
    """The donor makes a token of the eight anchors of highest bias, whose head rows cancel each other."""
    random = torch.Generator().manual_seed(0)
    n, dim, axes = 400, 32, torch.eye(24) * 5
    embedding, head, bias = (torch.randn(*shape, generator=random) for shape in ((n, dim), (n, dim), (n,)))
    head, bias = head * 0.3, bias * 2
    top = bias.topk(8).indices
    head[top[1::2]] = -head[top[::2]]
    seen = torch.randn(300, dim, generator=random)
    states = HeadStates(seen, (seen @ head.T + bias).logsumexp(1))
    donor = torch.randn(n + 1, 24, generator=random)
    donor[:, :8] = 0
    donor = torch.nn.functional.normalize(donor, dim=1) * 5
    donor[top], donor[n] = axes[:8], axes[:8].sum(dim=0)
    provenance = np.array([Provenance.COPIED] * n + [Provenance.RECONSTRUCTED], dtype=np.int8)
    plan = RowPlan(provenance, np.array([*range(n), -1]))
    made = build_rows(
        VocabularyMatrices(embedding, head, bias), VocabularyMatrices(torch.randn(n + 1, 24, generator=random), donor),
        Alignment(plan, {}, ()), method=Omp(k=8), pieces=[[1, 2]], states=states if run else None,
    )  # fmt: skip
    assert [(row.id, row.sign) for row in made.outliers] == [(n, "loud")]
    assert made.matrices.bias[n] == pytest.approx(float(bias[[1, 2]].mean()))
