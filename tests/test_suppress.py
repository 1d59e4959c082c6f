"""Rows that take no probability."""

from __future__ import annotations

import torch

from tokensurgeon.suppress import TARGET_MASS, suppressing_row


def states(n, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    mean = 2 * torch.randn(dim, generator=torch.Generator().manual_seed(99))
    return mean + torch.randn(n, dim, generator=generator)


def test_mass_on_states_that_were_not_seen():
    head = 0.1 * torch.randn(500, 32, generator=torch.Generator().manual_seed(5))
    seen, unseen = states(800, 32, 1), states(800, 32, 2)
    row = suppressing_row(seen, torch.logsumexp(seen @ head.T, dim=1), 6000)
    mass = 6000 * torch.exp(unseen @ row - torch.logsumexp(unseen @ head.T, dim=1))
    assert mass.mean() < 100 * TARGET_MASS
    zero = 6000 / torch.exp(torch.logsumexp(unseen @ head.T, dim=1))
    assert zero.mean() > 1e3 * mass.mean()


def test_nothing_is_added_where_zero_is_quiet_enough():
    seen = states(800, 32, 1)
    assert (suppressing_row(seen, torch.full((800,), 60.0), 10) == 0).all()


def test_the_row_is_finite_when_a_state_points_away():
    seen = states(800, 32, 1)
    seen[0] = -seen[1]
    assert torch.isfinite(suppressing_row(seen, torch.zeros(800), 100)).all()
