"""RMM's basis on cases with a known answer."""

from __future__ import annotations

import pytest
import torch

from tokensurgeon import InputError
from tokensurgeon.merging.methods.rmm import pack, unpack


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_all_come_back_from_as_many():
    tensors = [randn(4, 7, seed=s) for s in range(3)]
    basis, coefficients = pack(tensors, 3)
    assert basis.shape == (3, 4, 7) and coefficients.shape == (3, 3)
    assert float((unpack(basis, coefficients) - torch.stack(tensors)).abs().max()) < 1e-14
    assert float((unpack(basis, coefficients[1]) - tensors[1]).abs().max()) < 1e-14
    assert all(torch.equal(tensor, randn(4, 7, seed=s)) for s, tensor in enumerate(tensors))


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_fewer_lose_the_singular_tail(keep):
    tensors = [randn(5, 6, seed=s) for s in range(5)]
    back = unpack(*pack(tensors, keep))
    tail = torch.linalg.svdvals(torch.stack(tensors).flatten(1))[keep:]
    torch.testing.assert_close((back - torch.stack(tensors)).square().sum(), tail.square().sum())


def test_what_is_a_combination_of_two_comes_back_from_two():
    one, two = randn(3, 4), randn(3, 4, seed=1)
    tensors = [one, two, 2 * one - two, one / 3]
    back = unpack(*pack([tensor.float() for tensor in tensors], 2))
    torch.testing.assert_close(back, torch.stack(tensors), atol=1e-6, rtol=0)
    assert torch.equal(unpack(*pack([0 * one] * 3, 2)), torch.zeros(3, 3, 4).double())
    basis, coefficients = pack([torch.tensor([float(n)]) for n in range(3)], 3)  # one entry needs one number
    assert basis.shape == (1, 1)
    torch.testing.assert_close(unpack(basis, coefficients)[:, 0], torch.arange(3.0).double())


def test_bad_input():
    one, two = torch.ones(2, 3), torch.ones(3, 2)
    for keep in (0, 3):
        with pytest.raises(InputError, match=f"keep is {keep}"):
            pack([one, one], keep)
    with pytest.raises(InputError, match="one shape"):
        pack([one, two], 1)
