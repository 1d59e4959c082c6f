"""Models that run on a device that is not the CPU."""

from __future__ import annotations

import torch

from tests.elsewhere import ELSEWHERE, Elsewhere
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.states import collect_states
from tokensurgeon.verification.running import forward_checks

PIECES = ["The quick brown fox jumps", "over the lazy dog"]


def test_states_are_those_of_the_cpu(zoo):
    here = load_model(zoo["gpt"])
    expected = collect_states(here.model, here.encode, here.prefix, PIECES)
    with Elsewhere():
        there = load_model(zoo["gpt"], ELSEWHERE)
        found = collect_states(there.model, there.encode, there.prefix, PIECES)
    assert found.states.device.type == found.log_normaliser.device.type == "cpu"
    torch.testing.assert_close(found.states, expected.states)
    torch.testing.assert_close(found.log_normaliser, expected.log_normaliser)


def test_an_output_is_run_there(good):
    manifest = Manifest.of_output(good)
    expected = [(check.name, check.ok) for check in forward_checks(good, manifest)]
    with Elsewhere():
        found = [(check.name, check.ok) for check in forward_checks(good, manifest, None, ELSEWHERE)]
    assert found == expected and all(ok for _, ok in found) and ("dead ids", True) in found
