"""Log-probabilities of some ids, and their gradients, beside torch's own."""

from __future__ import annotations

import pytest
import torch

import tokensurgeon.evaluation.logits as logits_module
from tokensurgeon.healing.objective import Asked


@pytest.mark.parametrize("entries", [1, 30, 1 << 20])
def test_some_log_probabilities_are_those_of_all(monkeypatch, entries):
    monkeypatch.setattr(logits_module, "_CACHED", entries)
    torch.manual_seed(0)
    logits = torch.randn(5, 11, requires_grad=True)
    row, token = (
        torch.tensor([3, 0, 3, 3, 1, 0]),
        torch.tensor([2, 10, 2, 7, 0, 4]),
    )  # unsorted, one twice, none of 2 and 4
    shares = torch.randn(6)
    got, wanted = Asked.apply(logits, row, token), torch.log_softmax(logits, dim=1)[row, token]
    torch.testing.assert_close(got, wanted)
    ours, theirs = (torch.autograd.grad(value, logits, shares, retain_graph=True)[0] for value in (got, wanted))
    torch.testing.assert_close(ours, theirs)
    assert not ours[2].any() and ours[3].any()
