"""Products in the precision in which the machine is fastest."""

from __future__ import annotations

import pytest
import torch

import tokensurgeon.transfer.products as products
from tokensurgeon.transfer.products import coarse_product


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_products_are_of_the_precision_that_is_fastest(monkeypatch, kind):
    monkeypatch.setattr(products, "precision_for", lambda *_, **__: kind)
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(9, 64, generator=generator), torch.randn(5, 64, generator=generator)
    found, exact = coarse_product(left, right.bfloat16()), left @ right.bfloat16().float().T
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0, atol=0.1 if kind is torch.bfloat16 else 1e-5)
    assert torch.equal(found, exact) == (kind is torch.float32)
