"""Rows that take no probability, and rows that take the right one."""

from __future__ import annotations

import torch

from tokensurgeon.transfer.silence import TARGET_MASS, calibrating_shifts, common_direction, suppressing_row
from tokensurgeon.transfer.states import HeadStates


def states(n, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    mean = 2 * torch.randn(dim, generator=torch.Generator().manual_seed(99))
    return mean + torch.randn(n, dim, generator=generator)


def test_mass_on_states_that_were_not_seen():
    head = 0.1 * torch.randn(500, 32, generator=torch.Generator().manual_seed(5))
    seen, unseen = states(800, 32, 1), states(800, 32, 2)
    row = suppressing_row(HeadStates(seen, torch.logsumexp(seen @ head.T, dim=1)), 6000)
    mass = 6000 * torch.exp(unseen @ row - torch.logsumexp(unseen @ head.T, dim=1))
    assert mass.mean() < 100 * TARGET_MASS
    zero = 6000 / torch.exp(torch.logsumexp(unseen @ head.T, dim=1))
    assert zero.mean() > 1e3 * mass.mean()


def test_states_without_a_normaliser_are_silenced_too():
    """As if theirs were the least that is known: what responds little to the direction asks for more of it."""
    seen = states(800, 32, 1)
    known, every = seen[:400], torch.full((800,), 3.0)
    expected = suppressing_row(HeadStates(seen, every), 10)
    torch.testing.assert_close(suppressing_row(HeadStates(seen, every[:400]), 10), expected)
    assert not torch.allclose(suppressing_row(HeadStates(known, every[:400]), 10), expected, rtol=1e-3)


def test_nothing_is_added_where_zero_is_quiet_enough():
    seen = states(800, 32, 1)
    assert (suppressing_row(HeadStates(seen, torch.full((800,), 60.0)), 10) == 0).all()


def test_the_row_is_finite_when_a_state_points_away():
    seen = states(800, 32, 1)
    seen[0] = -seen[1]
    assert torch.isfinite(suppressing_row(HeadStates(seen, torch.zeros(800)), 100)).all()


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
