"""Every method on a device that is not the CPU, with the CPU's results."""

from __future__ import annotations

import pytest
import torch

from tests.elsewhere import ELSEWHERE, Elsewhere
from tokensurgeon.baselines import METHODS, make_method
from tokensurgeon.transfer.heldout import score_held_out
from tokensurgeon.transfer.protocol import Auxiliary, BaseRows, DonorSpace, Pieces, Resources, all_rows

OPTIONS = {"omp": {"k": 3}}
FURTHER = {"neighbours": [{"weights": "inverse"}], "wechsel": [{"space": "fasttext"}], "focus": [{"space": "fasttext"}]}
WAYS = [(name, given) for name in METHODS for given in [OPTIONS.get(name, {}), *FURTHER.get(name, [])]]


def problem() -> tuple[DonorSpace, BaseRows]:
    generator = torch.Generator().manual_seed(0)
    donor, base = (torch.randn(317, dim, generator=generator) for dim in (12, 20))
    auxiliary = Auxiliary(donor[300:, :4].clone(), donor[:300, :4], torch.arange(300))
    auxiliary.targets[3] = 0.0
    pieces = Pieces.of([[i, i + 1] for i in range(17)])
    return DonorSpace(donor[300:], donor[:300], pieces, auxiliary), BaseRows(base, base[:300], "input")


@pytest.mark.parametrize(("name", "given"), WAYS, ids=str)
def test_rows_are_those_of_the_cpu(name, given):
    space, base = problem()
    method = make_method(name, given)
    expected = all_rows(method.fit(space, Resources()), base)
    with Elsewhere():
        found = all_rows(method.fit(space, Resources(device=ELSEWHERE)), base)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["omp", "ridge", "focus"])
def test_held_out_rows_are_those_of_the_cpu(name):
    space, base = problem()
    method = make_method(name, OPTIONS.get(name, {}))
    expected = score_held_out(space.anchors, torch.arange(300), base.every, method, Resources())
    with Elsewhere():
        found = score_held_out(space.anchors, torch.arange(300), base.every, method, Resources(device=ELSEWHERE))
    assert found.as_dict() == pytest.approx(expected.as_dict(), rel=1e-4)
