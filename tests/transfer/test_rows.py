"""New matrices from tensors and an alignment alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import byte_level

from tokensurgeon import Alignment, InputError, Provenance, RowPlan, Vocabulary, build_rows, solve_omp
from tokensurgeon.alignment import Blend
from tokensurgeon.alignment.match import placeholders
from tokensurgeon.baselines import make_method
from tokensurgeon.transfer.heldout import score_held_out
from tokensurgeon.transfer.omp import Omp
from tokensurgeon.transfer.protocol import BaseRows, DonorSpace, Resources, all_rows
from tokensurgeon.transfer.rows import VocabularyMatrices, drop_rowless
from tokensurgeon.transfer.untrained import untrained_ids

# ids 0-99 copied from base ids 10-109, 100-119 reconstructed, 120 override, 121 unreachable, 122 padding
PROVENANCE = np.array([0] * 100 + [3] * 20 + [2, 4, 5], dtype=np.int8)
SOURCE = np.array([*range(10, 110), *[-1] * 23])
PLAN = Alignment(RowPlan(PROVENANCE, SOURCE), {120: (3, 4, 5)}, ())
NEW = slice(100, 120)


def matrices(rows, dim, *, head=False, bias=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return VocabularyMatrices(
        torch.randn(rows, dim, generator=generator),
        torch.randn(rows, dim, generator=generator) if head else None,
        torch.randn(rows, generator=generator) if bias else None,
    )


def combination(donor_matrix, base_matrix, rest, k=8):
    found = solve_omp(donor_matrix[NEW], donor_matrix[:100], k)
    weights = torch.zeros(20, 100).scatter_add_(1, found.indices, found.values)
    combined = weights @ base_matrix[10:110]
    if rest == "dropped":
        return combined
    space = DonorSpace(torch.cat([donor_matrix[NEW], donor_matrix[:100]]), donor_matrix[:100])
    rows = all_rows(make_method("ridge").fit(space, Resources()), BaseRows(base_matrix, base_matrix[10:110], "both"))
    return combined + rows[:20] - weights @ rows[20:]


@pytest.mark.parametrize("rest", ["mapped", "dropped"])
def test_tied_base_gets_one_matrix(rest):
    base, donor = matrices(150, 24), matrices(123, 16, seed=1)
    silent = torch.full((24,), -3.0)
    new = build_rows(base, donor, PLAN, method=Omp(8, rest), suppressing=silent)
    matrix = new.matrices.embedding
    assert new.matrices.head is None and new.matrices.bias is None and set(new.coefficients) == {"embedding"}
    assert torch.equal(matrix[:100], base.embedding[10:110])
    torch.testing.assert_close(matrix[NEW], combination(donor.embedding, base.embedding, rest), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(matrix[120], (base.embedding[3] + base.embedding[5]) / 2)
    assert (matrix[121:] == -3).all()


@pytest.mark.parametrize("rest", ["mapped", "dropped"])
def test_untied_base_and_donor_use_their_own_matrices(rest):
    base, donor = matrices(150, 24, head=True), matrices(123, 16, head=True, seed=1)
    silent = torch.full((24,), -3.0)
    new = build_rows(base, donor, PLAN, method=Omp(8, rest), suppressing=silent)
    torch.testing.assert_close(
        new.matrices.embedding[NEW], combination(donor.embedding, base.embedding, rest), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(new.matrices.head[NEW], combination(donor.head, base.head, rest), rtol=1e-3, atol=1e-4)
    assert torch.equal(new.matrices.embedding[120], base.embedding[5])  # last piece for the input
    assert torch.equal(new.matrices.head[120], base.head[3])  # first piece for the head
    assert (new.matrices.head[121:] == -3).all() and (new.matrices.embedding[121:] == 0).all()


@pytest.mark.parametrize("rest", ["mapped", "dropped"])
def test_tied_donor_lends_an_untied_base_its_coefficients(rest):
    base, donor = matrices(150, 24, head=True), matrices(123, 16, seed=1)
    new = build_rows(base, donor, PLAN, method=Omp(8, rest))
    assert set(new.coefficients) == {"embedding"}
    torch.testing.assert_close(
        new.matrices.head[NEW], combination(donor.embedding, base.head, rest), rtol=1e-3, atol=1e-4
    )


def test_untie_gives_a_tied_base_a_head():
    base, donor = matrices(150, 24), matrices(123, 16, seed=1)
    new = build_rows(base, donor, PLAN, method=Omp(8), untie=True, suppressing=torch.ones(24))
    assert torch.equal(new.matrices.head[:120], new.matrices.embedding[:120])
    assert torch.equal(new.matrices.head[120], base.embedding[3])
    assert (new.matrices.head[121] == 1).all() and (new.matrices.embedding[121] == 0).all()


@pytest.mark.parametrize("rest", ["mapped", "dropped"])
def test_head_bias_is_copied_combined_and_silenced(rest):
    base, donor = matrices(150, 24, head=True, bias=True), matrices(123, 16, head=True, seed=1)
    new = build_rows(base, donor, PLAN, method=Omp(8, rest))
    assert torch.equal(new.matrices.bias[:100], base.bias[10:110])
    expected = combination(donor.head, base.bias[:, None], rest)[:, 0]
    torch.testing.assert_close(new.matrices.bias[NEW], expected, rtol=1e-3, atol=1e-4)
    assert new.matrices.bias[120] == base.bias[3] and (new.matrices.bias[121:] == -1e4).all()


@pytest.mark.parametrize("untied", [False, True])
def test_a_control_token_of_several_is_read_as_some_and_predicted_as_others(untied):
    base, donor = matrices(150, 24, head=untied), matrices(123, 16, seed=1)
    plan = Alignment(PLAN.plan.changed(Provenance.ROLE, [121]), roles={121: Blend((1, 2), (2,))})
    made = build_rows(base, donor, plan, method=Omp(8)).matrices
    torch.testing.assert_close(made.embedding[121], base.embedding[[1, 2]].mean(0))
    if untied:
        assert torch.equal(made.head[121], base.head[2])


def test_dead_rows_that_the_base_has_too_are_kept():
    base, source = matrices(150, 24), SOURCE.copy()
    source[121] = 7
    made = build_rows(base, matrices(123, 16, seed=1), Alignment(RowPlan(PROVENANCE, source)), method=Omp(8))
    assert torch.equal(made.matrices.embedding[121], base.embedding[7])
    assert 7 not in made.atoms and not made.matrices.embedding[122].any()


def test_untrained_control_tokens_are_like_rows_that_no_text_has():
    names = tuple(f"<unused{i}>" for i in range(8))
    tokenizer = byte_level(600, specials=("<|im_start|>", "<|im_end|>", *names))
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    rows = torch.randn(len(vocabulary), 24, generator=torch.Generator().manual_seed(3))
    dead = np.flatnonzero(~vocabulary.canonical).tolist()
    reserved = placeholders(vocabulary)
    assert len(reserved) == 8 <= len(dead)
    rows[[1, *dead, *reserved]] = rows[0] * 0 + 5 + 0.1 * rows[: 9 + len(dead)]
    assert untrained_ids(vocabulary, rows, reserved) == {1}
    assert untrained_ids(vocabulary, rows[:10]) == frozenset()  # too few to compare with


@pytest.mark.parametrize("spread", [0.0, 1e-3])
def test_a_control_token_that_training_moved_a_little_is_trained_where_the_others_are_alike(spread):
    """As in Qwen2.5-Coder-1.5B: all unused rows are one, and the turn marker has a cosine of 0.78 with it."""
    reserved = [f"<unused{i}>" for i in range(10)]
    vocabulary = Vocabulary.from_tokenizer(byte_level(400, specials=("<|im_start|>", "<|im_end|>", *reserved)))
    start, end = (vocabulary.pieces.index(literal) for literal in ("<|im_start|>", "<|im_end|>"))
    unused = [*np.flatnonzero(~vocabulary.canonical).tolist(), *map(vocabulary.pieces.index, reserved)]
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(vocabulary), 64, generator=generator)
    one = 0.5 * torch.randn(64, generator=generator)
    for token_id in (*unused, start, end):
        rows[token_id] = one + spread * torch.randn(64, generator=generator)
    assert untrained_ids(vocabulary, rows, unused) >= {start, end}
    rows[start] += 0.3 * torch.randn(64, generator=generator)
    mean = rows.mean(dim=0)
    assert torch.cosine_similarity(rows[start] - mean, one - mean, dim=0) > 0.76
    found = untrained_ids(vocabulary, rows, unused)
    assert end in found and start not in found


def test_dtype_is_the_bases():
    base, donor = matrices(150, 24), matrices(123, 16, seed=1)
    half = VocabularyMatrices(base.embedding.bfloat16())
    new = build_rows(half, donor, PLAN, method=Omp(8)).matrices.embedding
    assert new.dtype == torch.bfloat16 and torch.equal(new[:100], half.embedding[10:110])


def test_damaged_base_rows_are_named():
    base, donor = matrices(150, 24), matrices(123, 16, seed=1)
    base.embedding[57, 0] = float("nan")
    with pytest.raises(InputError, match=r"first: base id 57"):
        build_rows(base, donor, PLAN, method=Omp(8))
    base.embedding[57, 0], base.embedding[149, 0] = 0.0, float("nan")  # a row that nobody needs
    build_rows(base, donor, PLAN, method=Omp(8))


@pytest.mark.parametrize("rest", ["mapped", "dropped"])
def test_a_zero_head_row_of_the_donor_says_nothing(rest):
    """The donor never trained that head row: a zero row would have logit 0, above every real token."""
    base, donor = matrices(150, 24, head=True), matrices(123, 16, head=True, seed=1)
    donor.head[107] = 0
    new = build_rows(base, donor, PLAN, method=Omp(8, rest))
    expected = combination(donor.embedding, base.head, rest)[7]
    torch.testing.assert_close(new.matrices.head[107], expected, rtol=1e-3, atol=1e-4)


def test_anchors_beyond_the_donors_embedding_are_copied_but_are_no_atoms():
    source = np.append(SOURCE, 140)
    plan = Alignment(RowPlan(np.append(PROVENANCE, 0).astype(np.int8), source), PLAN.overrides, ())
    base, donor = matrices(150, 24), matrices(123, 16, seed=1)
    new, same = build_rows(base, donor, plan, method=Omp(8)), build_rows(base, donor, PLAN, method=Omp(8))
    assert torch.equal(new.matrices.embedding[123], base.embedding[140])
    assert torch.equal(new.matrices.embedding[:123], same.matrices.embedding)


def test_zero_donor_rows_are_not_reconstructed():
    donor = matrices(123, 16, seed=1)
    donor.embedding[104] = 0
    plan = drop_rowless(PLAN, donor).plan
    assert plan.counts()["padding"] == 2 and plan.provenance[104] == 5
    assert drop_rowless(PLAN, matrices(123, 16, seed=1)) is PLAN


def test_held_out_anchors_of_a_linear_map_are_predicted():
    """Base rows that are a rotation of the donor's: with as many atoms as dimensions nothing is lost."""
    generator = torch.Generator().manual_seed(0)
    donor = torch.randn(600, 12, generator=generator)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q
    ids = torch.arange(600)
    score = score_held_out(donor, ids, donor @ rotation, Omp(12), Resources())
    assert score.anchors == 60 and score.rank == 1
    assert score.cosine == pytest.approx(1, abs=1e-3) and score.unexplained == pytest.approx(0, abs=1e-3)
    other = torch.randn(600, 12, generator=generator)
    noise = score_held_out(donor, ids, other, Omp(12), Resources())
    assert noise.unexplained > 0.9 and abs(noise.cosine) < 0.3 and 150 < noise.rank < 450
    nothing = score_held_out(donor, ids, other, make_method("zero"), Resources())
    assert 250 < nothing.rank < 350 and nothing.cosine == 0  # equal to all, and no better than any
    assert score_held_out(donor, ids, other, Omp(600), Resources()) is None
