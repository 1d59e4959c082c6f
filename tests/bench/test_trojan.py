"""The bench of hostile donors: every attack runs, and its figures are of what was attacked."""

from __future__ import annotations

import pytest
import torch

from benchmarks.common.hostile import ATTACKS, Scene
from benchmarks.experiments import trojan
from tokensurgeon.baselines import make_method
from tokensurgeon.transfer.outliers import Scale
from tokensurgeon.transfer.protocol import Pieces
from tokensurgeon.transfer.states import HeadStates
from tokensurgeon.transfer.statistics import row_norms

ANCHORS, NEW, DIM = 300, 40, 16


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def setting():
    base, anchors = normal(ANCHORS + 20, DIM, seed=0), normal(ANCHORS, DIM, seed=1)
    pieces = Pieces.of([[i, i + 1] for i in range(NEW)])
    rest = {i: [i + 1] for i in range(ANCHORS)}
    return trojan.Setting(
        base, torch.arange(ANCHORS), anchors, normal(NEW, DIM, seed=2), pieces, row_norms(anchors), rest
    )


@pytest.fixture
def states(setting):
    found = normal(50, DIM, seed=3)
    return HeadStates(found, torch.logsumexp(found @ setting.base.T, dim=1))


@pytest.mark.parametrize(
    "how", [{"method": "omp", "k": 4}, {"method": "omp", "k": 4, "rest": "dropped"}, {"method": "ridge"}]
)
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_runs(setting, states, how, name):
    title, method = trojan.named(how)
    assert title == " ".join([how["method"], *(f"{name}={how[name]}" for name in ("k", "rest") if name in how)])
    scene = Scene(setting.base, setting.known, setting.anchors, states, normal(30, DIM, seed=4), 8, 4, 1.0, 4, 0)
    found = trojan.attacked(setting, scene, method, name, states)
    assert 0 <= found["caught"]["without_forward"]["all"] <= found["caught"]["with_states"]["all"] <= 1
    assert 0 < found["probability"]["with_states"] < 1 and found["length"] > 0


@pytest.mark.parametrize("quiet", [False, True])
def test_the_attack_through_the_map_reaches_what_it_wants_within_the_limits(setting, states, quiet):
    turned = torch.linalg.qr(normal(DIM, DIM, seed=5))[0]
    anchors = setting.base[setting.known] @ turned  # so that there is a map
    states = HeadStates(states.states + 2, torch.logsumexp((states.states + 2) @ setting.base.T, dim=1))
    scene = Scene(setting.base, setting.known, anchors, states, normal(30, DIM, seed=4), 8, 4, 0.0, 4, 0)
    rows, _ = ATTACKS["through ridge's map, within the limits" + ", loudness too" * quiet](scene)
    learnt = trojan.learn(setting, make_method("ridge"), rows, anchors, Pieces.of([[]] * 8), sound=True)
    made = torch.cat(list(learnt.blocks(setting.base, "both")))
    assert (torch.nn.functional.cosine_similarity(made, scene.wanted[None]) > 0.9).all()
    assert (Scale.of(setting.base[setting.known]).excess(made) < 1).all()
    loudest = states.mean_probability(setting.base).max()
    louder = states.mean_probability(made) > loudest
    assert not louder.any() if quiet else louder.all()


def test_honest_tokens_and_remedies(setting, states):
    method = make_method("omp", {"k": 4})
    honest = trojan.honest(setting, method, states)
    assert honest["tokens"] == NEW and honest["flagged"]["all"] <= honest["flagged_by_states"]["all"] < 0.2
    remedies = trojan.remedies(setting, method, 100, 0)
    assert remedies["tokens"] == 2 and remedies["unexplained"]["mean row"] == pytest.approx(1)
