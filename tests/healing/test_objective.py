"""Log-probabilities of some ids, and their gradients, beside torch's own."""

from __future__ import annotations

import pytest
import torch

import tokensurgeon.evaluation.logits as logits_module
from tokensurgeon.healing.objective import Asked


@pytest.mark.parametrize("entries", [1, 30, 1 << 20])
@pytest.mark.parametrize("some", [None, [0, 2, 3, 9]])
def test_some_log_probabilities_are_those_of_all(monkeypatch, entries, some):
    """Of ids, unsorted, one twice, none of two positions; and of a set."""
    monkeypatch.setattr(logits_module, "_CACHED", entries)
    torch.manual_seed(0)
    logits = torch.randn(5, 11, requires_grad=True)
    row, token = torch.tensor([3, 0, 3, 3, 1, 0]), torch.tensor([2, 10, 2, 7, 0, 4])
    shares, more = torch.randn(6), torch.randn(5)
    within = None if some is None else torch.zeros(11).index_fill_(0, torch.tensor(some), 1.0)
    got, of_set = Asked.apply(logits, row, token, within)
    logs = torch.log_softmax(logits, dim=1)
    wanted, set_wanted = logs[row, token], logs[:, some].logsumexp(dim=1) if some else 0 * logs[:, 0]
    torch.testing.assert_close((got, of_set), (wanted, set_wanted))
    both = ((got * shares).sum() + (of_set * more).sum(), (wanted * shares).sum() + (set_wanted * more).sum())
    ours, theirs = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in both)
    torch.testing.assert_close(ours, theirs)
    if some is None:
        assert not ours[2].any() and ours[3].any()
