"""What a combination of anchors leaves of the donor's row goes through a linear map, unless it is dropped."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from tokensurgeon.baselines import make_method
from tokensurgeon.errors import InputError
from tokensurgeon.transfer.combine import weights_of
from tokensurgeon.transfer.protocol import BaseRows, DonorSpace, Pieces, Resources, all_rows

ANCHORS, NEW, THEIRS, OURS = 120, 9000, 16, 24
"""More new tokens than are made at once."""


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def base():
    rows = normal(ANCHORS + 30, OURS, seed=1) - 0.2
    return BaseRows(rows, rows[:ANCHORS], "both")


@pytest.fixture
def space():
    pieces = Pieces.of([[i % ANCHORS, (3 * i) % ANCHORS] for i in range(NEW)])
    targets = normal(NEW, THEIRS, seed=2)
    targets[1] = 0  # nothing is known of it
    return DonorSpace(targets, normal(ANCHORS, THEIRS, seed=0) + 0.5, pieces, ids=torch.arange(ANCHORS))


def made(name, options, space, base):
    return all_rows(make_method(name, options).fit(space, Resources()), base).double()


@pytest.mark.parametrize("pieces", [True, False])
def test_rows_are_the_maps_and_what_it_is_wrong_about_the_anchors(space, base, pieces):
    """The reference asks ridge for the rows of the anchors."""
    space = space if pieces else DonorSpace(space.targets, space.anchors)
    found = made("omp", {"k": 4}, space, base)
    coefficients = weights_of(make_method("omp", {"k": 4}).fit(space, Resources())).coefficients
    dense = torch.zeros(NEW, ANCHORS).scatter_add_(1, coefficients.indices, coefficients.values).double()
    wrong = base.anchors.double() - made("ridge", {}, DonorSpace(space.anchors, space.anchors), base)
    torch.testing.assert_close(found, made("ridge", {}, space, base) + dense @ wrong, rtol=1e-4, atol=1e-4)
    assert dense[1].abs().max() == 0 and (found - made("omp", {"k": 4, "rest": "dropped"}, space, base)).std() > 0.1


def test_of_a_token_that_is_an_anchor_times_two_the_maps_constant_is_left(space, base):
    """The combination leaves nothing, and its coefficients are 2 in all: one constant of the map less."""
    same = DonorSpace(space.anchors[:5] * 2, space.anchors, None)
    found, dropped = (made("omp", {"k": 1, "rest": rest}, same, base) for rest in ("mapped", "dropped"))
    torch.testing.assert_close(dropped, base.anchors[:5].double() * 2, rtol=1e-4, atol=1e-4)
    mapped = made("ridge", {}, DonorSpace(torch.cat([same.targets, space.anchors[:5]]), space.anchors), base)
    torch.testing.assert_close(found, dropped + mapped[:5] - 2 * mapped[5:], rtol=1e-4, atol=1e-4)


def test_the_first_tokens_are_combined_and_the_maps_rows_do_for_the_others(space, base):
    """The last of the first lies within what is made at once."""
    n = 5000
    found, mapped = made("omp", {"k": 4, "tokens": n}, space, base), made("ridge", {}, space, base)
    torch.testing.assert_close(found[:n], made("omp", {"k": 4}, space, base)[:n], rtol=1e-5, atol=1e-5)
    assert torch.equal(found[n:], mapped[n:]) and (found[:n] - mapped[:n]).std() > 0.1
    with pytest.raises(InputError, match="tokens goes with rest=mapped"):
        make_method("omp", {"rest": "dropped", "tokens": n})


def test_the_paper_is_one_option_away(space, base):
    coefficients = make_method("omp", {"k": 4, "rest": "dropped"}).fit(space, Resources()).coefficients
    dense = torch.zeros(NEW, ANCHORS).scatter_add_(1, coefficients.indices, coefficients.values).double()
    found = made("omp", {"k": 4, "rest": "dropped"}, space, base)
    torch.testing.assert_close(found, dense @ base.anchors.double(), rtol=1e-4, atol=1e-4)
    assert asdict(make_method("omp", {"rest": "dropped"})) == {"k": 8, "rest": "dropped", "tokens": None}
    assert asdict(make_method("omp")) == {"k": 8, "rest": "mapped", "tokens": 16_384}
