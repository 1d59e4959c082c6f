"""Tokens of the student that join several of the base's: what the base believes of them, against sums by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tokensurgeon.healing.joined import joined_tokens
from tokensurgeon.healing.joins import Joins
from tokensurgeon.healing.meeting import compared
from tokensurgeon.healing.splits import pieces_of
from tokensurgeon.healing.targets import Beliefs, Targets
from tokensurgeon.surgery.pair import align_models

BASE = [b"<", b"a", b"b", b"c", b" ", b"  "]
MINE = [b"<", b"a", b"b", b"c", b"ab", b"abc", b"bb", b" ", b"a ", b"acb", b"ac"]
# As the base cuts the student's tokens; the last two begin with no text of the base's own.
PIECES = [[0], [1], [2], [3], [1, 2], [1, 2, 3], [2, 2], [4], [1, 4], [1, 3, 2], [1, 3]]
ALONE = [[0], [1], [2], [3], [7], [7, 7]]


def cut(data):
    """The student's: the longest first; what comes behind a space takes it, so that no text has its "a "."""
    found = []
    while data:
        fits = [i for i, token in enumerate(MINE) if data.startswith(token) and (i != 8 or len(data) == 2)]
        found.append(max(fits, key=lambda i: len(MINE[i]), default=None))
        if found[-1] is None:
            return [*found[:-1], 99]
        data = data[len(MINE[found[-1]]) :]
    return found


@pytest.fixture
def joins():
    return Joins(PIECES, ALONE, (BASE, [*MINE, *[b""] * 89]), cut)


def by_id(targets, row):
    """Masses of one position by the ids that count for them."""
    return {
        tuple(targets.token[targets.entry == entry].tolist()): float(targets.mass[entry])
        for entry in torch.nonzero(targets.row == row)[:, 0].tolist()
    }


def test_where_the_base_reads_a_token_it_says_how_probable_its_joins_are(joins):
    """Behind "a" the base may go on with "b", also where the text goes on with something else."""
    read, ids = [0, 1, 2, 3, 1, 1], [0, 5, 1, 1]  # "abc" "a" "a"
    meet = [(0, 0), (1, 3), (2, 4), (3, 5)]
    logits = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
    known = logits.softmax(dim=-1)
    beliefs = Beliefs.of_logits(meet, read, logits)
    got = joined_tokens(beliefs, ids, read, joins)
    assert got.place.tolist() == [0, 0, 1, 2]  # behind the beginning, with "a" read and "ab"; before the other two
    for row, at in ((0, 1), (2, 4), (3, 5)):
        b, c = (float(known[at, i]) for i in (2, 3))
        # "ac" and what goes on from it are one set, so are "ab" and "abc"; "a " is what no text has
        wanted = {(1, 8): 1 - b - c, (4, 5): b, (9, 10): c}
        assert by_id(got, row) == pytest.approx(wanted, rel=1e-4)
    assert by_id(got, 1) == pytest.approx({(4,): 1 - float(known[2, 3]), (5,): float(known[2, 3])}, rel=1e-4)


def test_where_the_student_cuts_otherwise_nothing_is_wanted(joins):
    """Its next id does not begin with the base's next token; or what the base reads behind that is not known."""
    logits = torch.zeros(2, 8)
    assert not len(joined_tokens(Beliefs.of_logits([(0, 0)], [0, 1], logits[:1]), [0, 1], [0, 1], joins).place)
    beliefs = Beliefs.of_logits([(0, 0), (1, 1)], [0, 1], logits)
    assert joined_tokens(beliefs, [0, 1], [0, 1], joins).place.tolist() == [0]
    assert not len(joined_tokens(beliefs, [0, 6], [0, 1], joins).place)
    assert not len(joined_tokens(beliefs, [0], [0, 1], joins).place)


def test_what_is_unlikely_stays_with_what_stands_alone(joins):
    logits = torch.zeros(2, 8)
    logits[1, 2] = 20.0
    got = joined_tokens(Beliefs.of_logits([(0, 0), (1, 1)], [0, 1], logits), [0, 1], [0, 1], joins)
    assert by_id(got, 0) == pytest.approx({(1, 8, 9, 10): 0.0, (4, 5): 1.0}, abs=1e-6)
    logits[1, 2], logits[1, 1] = 0.0, 20.0  # "aa" is no token
    assert not len(joined_tokens(Beliefs.of_logits([(0, 0), (1, 1)], [0, 1], logits), [0, 1], [0, 1], joins).place)


def test_what_makes_the_student_begin_otherwise_takes_no_part(joins):
    """Neither for a join nor for what stands alone; where little else is left, nothing is wanted."""
    joins._theirs = [*BASE, b"ca"]  # the base's id 6: where the base has "a" "ca", the student writes "ac" "a"
    logits = torch.full((2, 8), -30.0)
    logits[1, [2, 4, 6]] = torch.tensor([0.2, 0.3, 0.5]).log()
    got = joined_tokens(Beliefs.of_logits([(0, 0), (1, 1)], [0, 1], logits), [0, 1], [0, 1], joins)
    assert by_id(got, 0) == pytest.approx({(1, 8, 9): 0.3, (4, 5): 0.2, (10,): 0.5}, abs=1e-5)
    joins._cut = lambda data: [6] if data == b"aca" else cut(data)  # as if it began with "bb", which is none of them
    joins._first.cache_clear()
    got = joined_tokens(Beliefs.of_logits([(0, 0), (1, 1)], [0, 1], logits), [0, 1], [0, 1], joins)
    assert by_id(got, 0) == pytest.approx({(1, 8, 9, 10): 0.6, (4, 5): 0.4}, abs=1e-5)
    assert set(got.entry.tolist()) == set(range(len(got.mass)))  # none is without an id
    logits[1, 6] = 20.0
    assert not len(joined_tokens(Beliefs.of_logits([(0, 0), (1, 1)], [0, 1], logits), [0, 1], [0, 1], joins).place)


def test_beginnings(joins):
    assert joins.first((1,), 2) == 4 and joins.first((1, 2), 3) == 5
    assert joins.first((1,), 4) == 1  # with a letter behind the space
    assert joins.first((1,), 7) is None  # a row of the head that is no token
    assert joins.first((5,), 1) == 7  # within the token, since the student has no two spaces
    assert joins.at((2,)).alone == 2 and joins.at((2,)).ids.tolist() == [6] and joins.at((3,)) is None


def test_a_token_that_the_base_spells_otherwise_is_none(joins):
    assert 8 in joins.at((1,)).ids
    other = Joins(PIECES, ALONE, (BASE, [*MINE[:8], b"A ", *MINE[9:]]), cut)
    assert other.at((1,)).ids.tolist() == [i for i in joins.at((1,)).ids.tolist() if i != 8]


def test_divergence_among_what_is_asked_for():
    """Nought where the shares are those that are wanted, whatever all of it is worth; and no gradient there."""
    wanted = Targets.of_sets(
        [
            (3, torch.tensor([1, 4, 5]), torch.tensor([0, 1, 1]), torch.tensor([0.25, 0.75])),
            (5, torch.tensor([2, 6]), torch.tensor([0, 1]), torch.tensor([0.5, 0.5])),
        ]
    )
    assert wanted.place.tolist() == [3, 5] and wanted.at.tolist() == [3, 3, 3, 5, 5]
    for scale in (0.0, -90.0):
        same = torch.tensor([0.25, 0.5, 0.25, 0.1, 0.1]).log() + scale
        same.requires_grad_()
        apart = wanted.divergence_within(same)
        apart.sum().backward()
        assert float(apart.detach().abs().max()) < 1e-5 and float(same.grad.abs().max()) < 1e-5
    other = wanted.divergence_within(torch.tensor([0.5, 0.25, 0.25, 0.3, 0.1]).log())
    expected = [0.25 * math.log(0.5) + 0.75 * math.log(1.5), 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(2)]
    torch.testing.assert_close(other, torch.tensor(expected), atol=1e-5, rtol=1e-4)
    assert not len(Targets.of_sets([]).divergence_within(torch.empty(0)))


def test_joins_of_real_tokenizers_are_what_text_has(zoo):
    """Where a text has two of the base's tokens in a row, the student's next id is the one that was foretold."""
    teacher, student, aligned, _ = align_models(str(zoo["gpt"]), str(zoo["spm"]))
    sides = teacher.vocabulary, student.vocabulary
    pieces = pieces_of(*sides, aligned.plan)
    _, _, joins = compared(*sides, aligned.plan, (len(sides[0]), aligned.plan.n_rows))
    several = [i for i, cut in enumerate(pieces) if len(cut) == 2 and sides[1].canonical[i] and joins.at((cut[0],))]
    foretold = [joins.first((pieces[i][0],), pieces[i][1]) == i for i in several]
    assert len(foretold) > 100 and sum(foretold) > 0.9 * len(foretold)
