"""What the map makes of a token's pieces wrongly is taken off its row, by how much of them there is in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tokensurgeon.alignment import Alignment, Provenance, RowPlan
from tokensurgeon.baselines import make_method
from tokensurgeon.transfer.composed import at_anchors, shares_of
from tokensurgeon.transfer.protocol import DonorSpace, Pieces
from tokensurgeon.transfer.rows import VocabularyMatrices, build_rows

ANCHORS, NEW, THEIRS, OURS = 120, 6, 16, 24
KNOWN = torch.arange(ANCHORS).flip(0) + 10
"""Base ids of the anchors: in another order, and not from 0."""
PIECES = [[12, 40], [77], [30, 31, 32], [20, 20], [], [15, 5]]  # 5 is no anchor


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def anchors():
    return normal(ANCHORS, THEIRS, seed=0) + 0.5


@pytest.fixture
def targets(anchors):
    """The first three have 0.4, 3 and -1 of what their pieces say, and nothing else."""
    found, middle = normal(NEW, THEIRS, seed=2), anchors.mean(dim=0)
    for row, share in enumerate((0.4, 3.0, -1.0)):
        found[row] = middle + share * (anchors[[place(i) for i in PIECES[row]]].mean(dim=0) - middle)
    return found


def place(base_id):
    return KNOWN.tolist().index(base_id)


def test_shares_are_those_of_least_squares(anchors, targets):
    space, pieces = DonorSpace(targets, anchors), at_anchors(Pieces.of(PIECES), KNOWN)
    middle = anchors.double().numpy().mean(axis=0)
    shares, along = shares_of(space, pieces, slice(0, NEW), anchors.mean(dim=0))
    wanted = []
    for row in range(4):
        mean = anchors.double().numpy()[[place(i) for i in PIECES[row]]].mean(axis=0) - middle
        np.testing.assert_allclose(along[row], mean, atol=1e-6)
        (share,), *_ = np.linalg.lstsq(mean[:, None], targets[row].double().numpy() - middle, rcond=None)
        wanted.append(min(1.0, max(0.0, share)))
    assert wanted[:3] == pytest.approx([0.4, 1.0, 0.0], abs=1e-6)
    assert shares.tolist() == pytest.approx([*wanted, 0, 0], abs=1e-5)
    some, _ = shares_of(space, pieces, slice(3, 6), anchors.mean(dim=0))
    assert torch.equal(some, shares[3:])


def plan():
    copied, new = int(Provenance.COPIED), int(Provenance.RECONSTRUCTED)
    return Alignment(
        RowPlan(np.array([copied] * ANCHORS + [new] * NEW, dtype=np.int8), np.array([*KNOWN.tolist(), *[-1] * NEW]))
    )


@pytest.mark.parametrize("head", [False, True])
def test_rows_are_corrected_by_what_the_map_makes_of_their_pieces(anchors, targets, head):
    """Each matrix by its own map; the reference asks the plain method for the rows of the pieces' means."""
    base = [normal(ANCHORS + 30, OURS, seed=seed) - 0.2 for seed in (1, 3)]
    theirs = torch.cat([anchors, targets])
    left = VocabularyMatrices(base[0], base[1] if head else None, normal(ANCHORS + 30, seed=4) if head else None)
    right = VocabularyMatrices(theirs, theirs * 0.7 + 0.1 if head else None)
    made = build_rows(left, right, plan(), method=make_method("ridge"), pieces=PIECES).matrices
    plain = make_method("ridge", {"pieces": "none"})
    bare = build_rows(left, right, plan(), method=plain, pieces=PIECES).matrices
    middles, means = {}, {}
    for name in ("embedding", "head")[: 1 + head]:
        rows = getattr(right, name)
        middles[name] = rows[:ANCHORS].mean(dim=0)
        means[name] = torch.stack([rows[[place(i) for i in p]].mean(dim=0) for p in PIECES[:4]])
    moved = {n: torch.cat([getattr(right, n)[:ANCHORS], m, m[:1], m[:1]]) for n, m in means.items()}
    said = build_rows(left, VocabularyMatrices(**moved), plan(), method=plain).matrices
    for name in ("embedding", "head", "bias") if head else ("embedding",):
        donor = "head" if name == "bias" else name
        ours, found, wanted, wrong = (
            getattr(of, name).reshape(len(getattr(of, name)), -1) for of in (left, made, bare, said)
        )
        along = (means[donor] - middles[donor]).double()
        own = (getattr(right, donor)[ANCHORS:][:4] - middles[donor]).double()
        shares = ((along * own).sum(1) / along.square().sum(1)).clamp(0, 1).float()
        true = torch.stack([ours[p].mean(dim=0) for p in PIECES[:4]])
        found, wanted, wrong = (rows[ANCHORS:] for rows in (found, wanted, wrong))
        corrected = wanted[:4] + shares[:, None] * (true - wrong[:4])
        torch.testing.assert_close(found[:4], corrected, rtol=1e-4, atol=1e-4)
        assert torch.equal(found[4:], wanted[4:]) and not torch.allclose(found[:4], wanted[:4], atol=1e-2)
    assert torch.equal(theirs[ANCHORS:], targets)  # nothing was changed in place


def test_a_token_that_is_as_its_pieces_gets_their_mean_row(anchors):
    """Whatever the map makes of them."""
    base = normal(ANCHORS + 30, OURS, seed=1)
    rows = torch.cat([anchors, anchors[[3, 4]].mean(dim=0).repeat(NEW, 1)])
    pieces = [[int(KNOWN[3]), int(KNOWN[4])]] * NEW
    made = build_rows(
        VocabularyMatrices(base), VocabularyMatrices(rows), plan(), method=make_method("ridge"), pieces=pieces
    )
    wanted = base[KNOWN[[3, 4]]].mean(dim=0)
    torch.testing.assert_close(made.matrices.embedding[ANCHORS:], wanted.repeat(NEW, 1), rtol=0, atol=1e-4)


def test_a_damaged_row_of_the_base_that_is_no_anchor_stays_where_it_is(anchors, targets):
    base = normal(ANCHORS + 30, OURS, seed=1)
    base[5] = torch.nan
    found = build_rows(
        VocabularyMatrices(base), VocabularyMatrices(torch.cat([anchors, targets])), plan(),
        method=make_method("ridge"), pieces=PIECES,
    )  # fmt: skip
    assert found.matrices.embedding[ANCHORS:].isfinite().all() and not found.outliers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_of_any_precision_and_size(anchors, dtype):
    own = anchors.to(dtype)
    own[7], own[8] = torch.finfo(dtype).max, -torch.finfo(dtype).max
    targets = torch.stack([own[1], own[7], torch.zeros(THEIRS, dtype=dtype)])
    pieces = at_anchors(Pieces.of([[int(KNOWN[1])], [int(KNOWN[8])], [int(KNOWN[1])]]), KNOWN)
    shares, _ = shares_of(DonorSpace(targets, own), pieces, slice(0, 3), own[:7].float().mean(dim=0))
    assert shares.isfinite().all() and shares[0] == pytest.approx(1, abs=1e-2) and shares[2] == 0
    assert (at_anchors(Pieces.of([[1, 2]]), torch.zeros(0, dtype=torch.int64)).ids == -1).all()
