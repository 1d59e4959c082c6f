"""Normalisers of logits."""

from __future__ import annotations

import pytest
import torch

import tokensurgeon.evaluation.logits as logits_module
from tokensurgeon.evaluation.logits import log_normaliser


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_logsumexp_in_parts_of_any_size(monkeypatch, dtype):
    logits = (40 * torch.randn(7, 50, generator=torch.Generator().manual_seed(0))).to(dtype)
    logits[2], logits[3, :9], logits[4, 0] = -torch.inf, -torch.inf, torch.inf
    for entries in (1, 120, 1 << 20):
        monkeypatch.setattr(logits_module, "_CACHED", entries)
        torch.testing.assert_close(log_normaliser(logits), torch.logsumexp(logits.float(), dim=1))
    assert log_normaliser(logits[:0]).shape == (0,)
