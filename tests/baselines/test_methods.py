"""Every method against an independent reference or a case with a known answer."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.special import softmax
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.neighbors import KNeighborsRegressor

from tokensurgeon import InputError
from tokensurgeon.baselines import METHODS, make_method
from tokensurgeon.baselines.focus import sparsemax
from tokensurgeon.transfer.combine import weights_of
from tokensurgeon.transfer.linear import _PENALTIES
from tokensurgeon.transfer.protocol import Auxiliary, BaseRows, DonorSpace, Pieces, Resources, all_rows

DONOR, BASE, ANCHORS, TARGETS = 12, 20, 300, 17


def problem(base_dim=BASE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(ANCHORS + TARGETS, DONOR, generator=generator) + 0.5
    hidden = torch.randn(DONOR, base_dim, generator=generator)
    known = rows[:ANCHORS] @ hidden + torch.randn(ANCHORS, base_dim, generator=generator) + 2.0
    every = torch.cat([known, torch.randn(50, base_dim, generator=generator)])
    ids = torch.tensor([5, 6, 7, 320, 3, 9, *range(14)])
    starts = torch.tensor([0, 4, 4, *range(6, 20)])  # the first has 4 pieces, the second none, the third 2
    space = DonorSpace(rows[ANCHORS:], rows[:ANCHORS], Pieces(ids, starts))
    return space, BaseRows(every, known, "input")


def made(name, options=None, use="input", seed=0, **kwargs):
    space, base = problem(**kwargs)
    fitted = make_method(name, options or {}).fit(space, Resources(seed=seed))
    return all_rows(fitted, BaseRows(base.every, base.anchors, use))


@pytest.mark.parametrize("name", METHODS)
def test_shape_dtype_and_determinism(name):
    for dim in (BASE, 1, 5):  # 1: the bias of a head
        first, second = made(name, base_dim=dim), made(name, base_dim=dim)
        assert first.shape == (TARGETS, dim) and first.dtype == torch.float32 and torch.equal(first, second)
    half = make_method(name)
    space, base = problem()
    less = DonorSpace(space.targets.bfloat16(), space.anchors.bfloat16(), space.pieces)
    rows = all_rows(half.fit(less, Resources()), BaseRows(base.every.bfloat16(), base.anchors.bfloat16(), "head"))
    assert rows.dtype == torch.float32 and torch.isfinite(rows).all()


@pytest.mark.parametrize("use", ["input", "both"])
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"normal"}))  # whose draws depend on it
def test_blocks_change_nothing(name, use, monkeypatch):
    whole = made(name, use=use)
    monkeypatch.setattr("tokensurgeon.transfer.protocol._BLOCK", 5)
    torch.testing.assert_close(made(name, use=use), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_no_targets(name):
    space, base = problem()
    none = Pieces(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    fitted = make_method(name).fit(DonorSpace(space.targets[:0], space.anchors, none), Resources())
    assert all_rows(fitted, base).shape == (0, BASE)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"zero", "mean", "normal", "subtoken"}))
def test_damaged_rows_are_an_error(name):
    space, _ = problem()
    space.anchors[3, 1] = float("nan")
    with pytest.raises(InputError, match=r"1 atom rows hold NaN"):
        make_method(name).fit(space, Resources())


def test_zero_and_mean():
    _, base = problem()
    assert (made("zero") == 0).all()
    torch.testing.assert_close(made("mean"), base.every.mean(dim=0).expand(TARGETS, -1))


def test_normal_has_the_bases_mean_and_covariance():
    space, base = problem()
    many = DonorSpace(torch.zeros(200_000, DONOR), space.anchors)
    rows = all_rows(make_method("normal").fit(many, Resources(seed=3)), base).double()
    every = base.every.double()
    torch.testing.assert_close(rows.mean(dim=0), every.mean(dim=0), atol=0.1, rtol=0)
    expected = torch.from_numpy(np.cov(every.numpy().T, ddof=0))
    torch.testing.assert_close(torch.cov(rows.T), expected, atol=0.05 * float(expected.max()), rtol=0)
    assert not torch.equal(made("normal", seed=1), made("normal", seed=2))
    assert not torch.equal(made("normal"), made("normal", use="head"))
    near = made("normal", {"scale": 1e-12})
    torch.testing.assert_close(near, made("mean"), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("how", "weights"),
    [("mean", [1, 1, 1, 1]), ("first", [1, 0, 0, 0]), ("last", [0, 0, 0, 1]), ("decay", [8, 4, 2, 1])],
)
def test_subtoken(how, weights):
    _, base = problem()
    pieces = base.every[[5, 6, 7, 320]]
    expected = (torch.tensor(weights, dtype=torch.float32) / sum(weights)) @ pieces
    other = {"mean": "last"}.get(how, "mean")
    torch.testing.assert_close(made("subtoken", {"input": how, "head": other})[0], expected)
    torch.testing.assert_close(made("subtoken", {"input": other, "head": how}, use="head")[0], expected)
    second = made("subtoken", {"input": other})[0]
    both = made("subtoken", {"input": other, "head": how}, use="both")
    torch.testing.assert_close(both[0], (expected + second) / 2)
    torch.testing.assert_close(both[1], base.every.mean(dim=0))  # no piece at all
    with pytest.raises(InputError, match="needs the tokens' texts"):
        make_method("subtoken").fit(DonorSpace(torch.zeros(1, 2), torch.zeros(3, 2)), Resources())


def test_neighbours_by_inverse_distance_are_scikit_learns():
    space, base = problem()
    peer = KNeighborsRegressor(7, weights="distance").fit(space.anchors.numpy(), base.anchors.numpy())
    found = made("neighbours", {"weights": "inverse", "k": 7})
    np.testing.assert_allclose(found, peer.predict(space.targets.numpy()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "k"), [("neighbours", 16), ("wechsel", 10)])
def test_softmax_over_the_nearest(name, k):
    space, base = problem()
    x, a = (
        r.double().numpy() / np.linalg.norm(r.double().numpy(), axis=1)[:, None] for r in (space.targets, space.anchors)
    )
    cosine = x @ a.T
    nearest = np.argsort(-cosine, axis=1)[:, :k]
    weights = softmax(np.take_along_axis(cosine, nearest, axis=1) / 0.1, axis=1)
    expected = np.einsum("nk,nkd->nd", weights, base.anchors.double().numpy()[nearest])
    np.testing.assert_allclose(made(name), expected, rtol=1e-4, atol=1e-4)


def test_the_residual_of_weights_is_the_donors():
    space, _ = problem()
    for name in ("omp", "neighbours", "wechsel", "focus"):
        options = {"k": 8} if name == "omp" else {}
        found = weights_of(make_method(name, options).fit(space, Resources())).coefficients
        dense = torch.zeros(TARGETS, ANCHORS).scatter_add_(1, found.indices, found.values)
        expected = (space.targets - dense @ space.anchors).norm(dim=1)
        torch.testing.assert_close(found.residual, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(found.n_active, (dense != 0).sum(dim=1))


@pytest.mark.parametrize("spread", [0.001, 0.1, 3.0])
@pytest.mark.parametrize("m", [5, 2000])
def test_sparsemax_projects_onto_the_simplex(spread, m):
    """By bisection on the threshold; with a small spread the support is larger than the first guess."""
    scores = spread * torch.randn(6, m, generator=torch.Generator().manual_seed(1))
    index, weight = sparsemax(scores)
    dense = torch.zeros(6, m).scatter_add_(1, index, weight).double()
    low, high = scores.double().amin(dim=1) - 1, scores.double().amax(dim=1)
    for _ in range(80):
        middle = (low + high) / 2
        above = (scores.double() - middle[:, None]).clamp(min=0).sum(dim=1) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    expected = (scores.double() - low[:, None]).clamp(min=0)
    torch.testing.assert_close(dense, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(dense.sum(dim=1), torch.ones(6, dtype=torch.float64), atol=1e-5, rtol=0)


def test_focus_is_a_mean_of_anchors():
    space, base = problem()
    fitted = make_method("focus").fit(space, Resources())
    cosine = torch.nn.functional.cosine_similarity(space.targets[:, None], space.anchors[None], dim=2)
    index, weight = sparsemax(cosine)
    dense = torch.zeros(TARGETS, ANCHORS).scatter_add_(1, index, weight)
    torch.testing.assert_close(all_rows(fitted, base), dense @ base.anchors, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("penalty", [0.001, 1.0])
def test_ridge_is_scikit_learns(penalty):
    space, base = problem()
    x = space.anchors.double().numpy()
    unit = np.linalg.eigvalsh(np.cov(x.T, ddof=0) * len(x)).mean()
    peer = SklearnRidge(alpha=penalty * unit).fit(x, base.anchors.double().numpy())
    found = made("ridge", {"penalty": penalty})
    np.testing.assert_allclose(found, peer.predict(space.targets.double().numpy()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("penalty", [0, 0.0, "0", 1e-12])
def test_ridge_without_a_penalty_is_least_squares(penalty):
    space, base = problem()
    peer = LinearRegression().fit(space.anchors.double().numpy(), base.anchors.double().numpy())
    expected = peer.predict(space.targets.double().numpy())
    np.testing.assert_allclose(made("ridge", {"penalty": penalty}), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(made("ridge") - expected).max() > 1e-3  # leaving one out chooses another


def test_least_squares_where_anchors_do_not_span_the_space():
    """As many directions as anchors lack have no weight, as in the pseudo-inverse."""
    space, base = problem()
    few, wide = 7, torch.cat([space.anchors, space.anchors[:, :3] * 2], dim=1)
    targets = torch.cat([space.targets, space.targets[:, :3] * 2], dim=1)
    for n in (few, ANCHORS):
        fitted = make_method("ridge", {"penalty": 0}).fit(DonorSpace(targets, wide[:n], space.pieces), Resources())
        peer = LinearRegression().fit(wide[:n].double().numpy(), base.anchors[:n].double().numpy())
        found = all_rows(fitted, BaseRows(base.every, base.anchors[:n], "input"))
        np.testing.assert_allclose(found, peer.predict(targets.double().numpy()), rtol=1e-4, atol=1e-4)


def test_what_ridge_records():
    assert (
        asdict(make_method("ridge"))
        == asdict(make_method("ridge", {"penalty": None}))
        == {"penalty": None, "pieces": "shared"}
    )
    assert asdict(make_method("ridge", {"penalty": 0, "pieces": "none"})) == {"penalty": 0.0, "pieces": "none"}


def test_ridge_chooses_the_penalty_by_leaving_one_out():
    space, base = problem()
    x = space.anchors.double().numpy()
    unit = np.linalg.eigvalsh(np.cov(x.T, ddof=0) * len(x)).mean()
    peer = RidgeCV(alphas=_PENALTIES.numpy() * unit).fit(x, base.anchors.double().numpy())
    assert peer.alpha_ > _PENALTIES[0] * unit  # not the first of them
    np.testing.assert_allclose(made("ridge"), peer.predict(space.targets.double().numpy()), rtol=1e-4, atol=1e-4)


def test_procrustes_finds_a_rotation_with_scale_and_shift():
    space, _ = problem()
    rotation = torch.linalg.qr(torch.randn(DONOR, DONOR, generator=torch.Generator().manual_seed(4))).Q
    for width in (DONOR, BASE):  # a wider base: the rest of its dimensions is constant
        target = torch.nn.functional.pad(2.5 * space.anchors @ rotation, (0, width - DONOR)) + 1.5
        rows = all_rows(make_method("procrustes").fit(space, Resources()), BaseRows(target, target, "input"))
        expected = torch.nn.functional.pad(2.5 * space.targets @ rotation, (0, width - DONOR)) + 1.5
        torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)


def test_procrustes_is_scipys_where_widths_agree():
    space, base = problem(base_dim=DONOR)
    x, y = space.anchors.double().numpy(), base.anchors.double().numpy()
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    turn, size = orthogonal_procrustes(x - x_mean, y - y_mean)
    expected = (space.targets.double().numpy() - x_mean) @ turn * size / np.square(x - x_mean).sum() + y_mean
    np.testing.assert_allclose(made("procrustes", base_dim=DONOR), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("magic", {}, r"unknown method 'magic'; known are omp, zero, .*focus"),
        ("ridge", {"k": 8}, r"method ridge takes no k; it takes penalty"),
        ("zero", {"k": 8}, r"method zero takes no k; it takes no options"),
        ("omp", {"k": 0}, r"k=0 must be a whole number of at least 1"),
        ("omp", {"k": "2.5"}, r"k='2.5' must be a whole number"),
        ("wechsel", {"temperature": "-1"}, r"temperature='-1' must be a number above 0"),
        ("ridge", {"penalty": -1}, r"penalty=-1 must be a number of at least 0"),
        ("ridge", {"penalty": "nan"}, r"penalty='nan' must be a number of at least 0"),
        ("ridge", {"penalty": False}, r"penalty=False must be a number"),
        ("wechsel", {"temperature": 0}, r"temperature=0 must be a number above 0"),
        ("omp", {"k": None}, r"k=None must be a whole number"),
        ("wechsel", {"temperature": "nan"}, r"must be a number above 0"),
        ("subtoken", {"head": "middle"}, r"head='middle' must be one of mean, first, last, decay"),
    ],
)
def test_options_that_do_not_fit(name, options, message):
    with pytest.raises(InputError, match=message):
        make_method(name, options)


def test_every_method_has_a_docstring_for_each_option():
    for cls in METHODS.values():
        for field in fields(cls):
            assert f"{field.name}:" in cls.__doc__, (cls, field.name)


def test_tokens_without_an_auxiliary_vector_are_drawn():
    """One of them must not make every token's support as wide as the vocabulary."""
    space, base = problem()
    vectors = torch.randn(TARGETS, 6, generator=torch.Generator().manual_seed(1))
    sources = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))
    vectors[3] = 0.0
    auxiliary = Auxiliary(vectors, sources, torch.arange(100, 140))
    for name in ("wechsel", "focus"):
        method = make_method(name, {"space": "fasttext"})
        fitted = method.fit(replace(space, auxiliary=auxiliary), Resources(seed=1))
        assert fitted.coefficients.indices.shape[1] < 40
        assert (fitted.coefficients.n_active == 0).nonzero().flatten().tolist() == [3]
        rows, other = all_rows(fitted, base), all_rows(replace(fitted, seed=2), base)
        assert not torch.equal(rows[3], other[3]) and rows[3].abs().sum() > 0
        rows[3] = other[3]
        assert torch.equal(rows, other)
        index, weight = fitted.coefficients.indices[0], fitted.coefficients.values[0]
        torch.testing.assert_close(rows[0], weight @ base.every[100 + index])
        with pytest.raises(InputError, match="Give --text FILE"):
            method.fit(space, Resources())


def test_a_damaged_row_that_nobody_needs_spoils_nothing():
    space, base = problem()
    base.every[310, 0] = float("nan")
    for name in ("zero", "mean", "normal"):
        rows = all_rows(make_method(name).fit(space, Resources()), base)
        assert torch.isfinite(rows).all(), name
