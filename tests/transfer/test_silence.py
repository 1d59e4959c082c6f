"""Rows that take no probability, and rows that take the right one."""

from __future__ import annotations

import torch

from tokensurgeon.transfer.silence import TARGET_MASS, calibrating_shifts, common_direction, suppressing_row
from tokensurgeon.transfer.states import HeadStates
from tokensurgeon.transfer.statistics import mean_row


def states(n, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    mean = 2 * torch.randn(dim, generator=torch.Generator().manual_seed(99))
    return mean + torch.randn(n, dim, generator=generator)


def test_mass_on_states_that_were_not_seen():
    head = 0.1 * torch.randn(500, 32, generator=torch.Generator().manual_seed(5))
    seen, unseen = states(800, 32, 1), states(800, 32, 2)
    row = suppressing_row(HeadStates(seen, torch.logsumexp(seen @ head.T, dim=1)), 6000, head.mean(dim=0))
    mass = 6000 * torch.exp(unseen @ row - torch.logsumexp(unseen @ head.T, dim=1))
    assert mass.mean() < 100 * TARGET_MASS
    zero = 6000 / torch.exp(torch.logsumexp(unseen @ head.T, dim=1))
    assert zero.mean() > 1e3 * mass.mean()


def test_states_without_a_normaliser_are_silenced_too():
    """As if theirs were the least that is known: what responds little to the direction asks for more of it."""
    seen = states(800, 32, 1)
    known, every = seen[:400], torch.full((800,), 3.0)
    nothing = torch.zeros(32)
    expected = suppressing_row(HeadStates(seen, every), 10, nothing)
    torch.testing.assert_close(suppressing_row(HeadStates(seen, every[:400]), 10, nothing), expected)
    assert not torch.allclose(suppressing_row(HeadStates(known, every[:400]), 10, nothing), expected, rtol=1e-3)


def test_nothing_is_added_where_the_usual_row_is_quiet_enough():
    seen, usual = states(800, 32, 1), torch.full((32,), 0.01)
    assert torch.equal(suppressing_row(HeadStates(seen, torch.full((800,), 60.0)), 10, usual), usual)


def test_rows_stay_quiet_where_all_logits_are_low_together():
    """Behind tokens that it seldom reads a model may have states far from those on text, which lower all logits."""
    generator = torch.Generator().manual_seed(3)
    aside = torch.randn(32, generator=generator)
    head = 0.1 * torch.randn(500, 32, generator=generator) + 0.5 * aside / aside.norm()
    frequent = torch.linspace(2, -2, 500)[:, None] * common_direction(states(800, 32, 1))
    head = head + frequent
    seen = states(800, 32, 1)
    odd = states(800, 32, 2) - 300 * aside / aside.norm()  # logits of some -150
    every = torch.logsumexp(odd @ head.T, dim=1)
    assert every.max() < -10
    known = HeadStates(seen, torch.logsumexp(seen @ head.T, dim=1))
    row = suppressing_row(known, 6000, mean_row(head, torch.arange(500)))
    assert (6000 * torch.exp(odd @ row - every)).max() < 1e-4
    alone = suppressing_row(known, 6000, torch.zeros(32))
    assert (6000 * torch.exp(odd @ alone - every)).min() > 1


def test_the_mean_of_some_rows():
    rows = torch.randn(9000, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.testing.assert_close(mean_row(rows, torch.arange(0, 9000, 2)), rows[::2].float().mean(dim=0))
    assert torch.equal(mean_row(rows, torch.arange(0)), torch.zeros(3))
    damaged = rows.clone()
    damaged[1] = torch.nan
    torch.testing.assert_close(mean_row(damaged, torch.arange(3)), rows[[0, 2]].float().mean(dim=0))


def test_the_row_is_finite_when_a_state_points_away():
    seen = states(800, 32, 1)
    seen[0] = -seen[1]
    assert torch.isfinite(suppressing_row(HeadStates(seen, torch.zeros(800)), 100, torch.zeros(32))).all()


def test_shifted_rows_have_the_expected_prior():
    """Anchors whose prior is linear in their donor rows; new rows far too loud: they must come down to it."""
    generator = torch.Generator().manual_seed(7)
    seen, unseen = states(1500, 32, 1), states(1500, 32, 2)
    direction = common_direction(seen)
    donor = torch.randn(440, 10, generator=generator)
    wanted = 2 * donor[:, 0] - 3
    head = 0.05 * torch.randn(440, 32, generator=generator) + wanted[:, None] * direction
    zero = torch.zeros(1500)
    loud = head[400:] + 4 * direction
    shifts = calibrating_shifts(HeadStates(seen, zero), head[:400], donor[:400], loud, donor[400:])
    assert abs(float(shifts.mean()) + 4) < 0.5
    settled = (loud + shifts[:, None] * direction) @ unseen.T
    torch.testing.assert_close(settled.exp().mean(dim=1).log(), wanted[400:], rtol=0, atol=0.8)


def test_a_prior_that_is_known_wins_over_the_regression():
    """Tokens with a count come to it exactly on the states that were asked; the others stay as they were."""
    generator = torch.Generator().manual_seed(7)
    seen = states(1500, 32, 1)
    direction, zero = common_direction(seen), torch.zeros(1500)
    donor, head = torch.randn(440, 10, generator=generator), 0.05 * torch.randn(440, 32, generator=generator)
    new, prior = head[400:], torch.full((40,), torch.nan)
    prior[:20] = torch.linspace(-9, -4, 20)
    plain = calibrating_shifts(HeadStates(seen, zero), head[:400], donor[:400], new, donor[400:])
    known = calibrating_shifts(HeadStates(seen, zero), head[:400], donor[:400], new, donor[400:], prior)
    assert torch.equal(plain[20:], known[20:])
    settled = (new + known[:, None] * direction) @ seen.T
    torch.testing.assert_close(settled.exp().mean(dim=1).log()[:20], prior[:20], rtol=0, atol=0.3)
