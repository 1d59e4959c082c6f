"""Coefficients per layer, by Frank-Wolfe steps and of Expert Merging, on problems with a known answer; the command."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import TEXT, llama, save
from typer.testing import CliRunner

from tokensurgeon import InputError
from tokensurgeon.cli.app import app
from tokensurgeon.merging.estimate.dam import train_dam
from tokensurgeon.merging.estimate.dam_training import DamOptions
from tokensurgeon.merging.estimate.expert_training import ExpertOptions, fit_expert
from tokensurgeon.merging.estimate.fw_training import FrankWolfeOptions, fit_fw
from tokensurgeon.merging.estimate.pieces import group_of

NAMES = ("layers.0.w", "layers.1.w", "layers.1.b", "head")


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(seed):
    return {name: randn(8, 6, seed=10 * seed + i) for i, name in enumerate(NAMES)}


def states(of, inputs):
    """One state for each tensor: what it makes of its own six columns of the input."""
    return [inputs[:, 6 * i : 6 * i + 6] @ of[name].T for i, name in enumerate(NAMES)]


def logits(of, inputs):
    return sum(states(of, inputs))


def both(of, inputs):
    return logits(of, inputs), states(of, inputs)


def data(*spans):
    """For each model inputs that excite the tensors of a span only."""
    found = []
    for number, (first, last) in enumerate(spans):
        pieces = [torch.zeros(16, 24) for _ in range(10)]
        for i, piece in enumerate(pieces):
            piece[:, 6 * first : 6 * last] = randn(16, 6 * (last - first), seed=100 * number + i)
        found.append(pieces)
    return found


def test_tensors_of_a_layer_belong_together():
    names = ("model.layers.12.mlp.up_proj.weight", "model.layers.12.norm.weight", "model.layers.1.norm.weight",
             "model.embed_tokens.weight", "h.3.experts.7.w", "layers.4")  # fmt: skip
    groups = ["model.layers.12", "model.layers.12", "model.layers.1", "model.embed_tokens.weight", "h.3", "layers.4"]
    assert [group_of(name, "layer") for name in names] == groups
    assert {group_of(name, "model") for name in names} == {""}


def test_frank_wolfe_gives_each_layer_to_the_model_whose_data_uses_it():
    sources, told = [weights(1), weights(2)], []
    options = FrankWolfeOptions(steps=40, per="layer")
    fitted = fit_fw(sources, logits, data((0, 1), (1, 4)), options, lambda *news: told.append(news))
    expected = dict(zip(NAMES, ([1.0, 0], [0.0, 1], [0.0, 1], [0.0, 1]), strict=True))
    for name, found in fitted.coefficients.items():
        torch.testing.assert_close(found, torch.tensor(expected[name]), atol=5e-3, rtol=0)
        assert float(found.sum()) == pytest.approx(1)
    assert fitted.losses[-1] < 0.01 * fitted.losses[0] and told[-1] == (40, fitted.losses[-1])


def test_frank_wolfe_per_model_has_one_weight_for_all_tensors():
    """The first model's text says nothing, so that the other's is all that counts."""
    silent = [[torch.zeros(16, 24)], data((0, 4))[0]]
    fitted = fit_fw([weights(1), weights(2)], logits, silent, FrankWolfeOptions(steps=30))
    for found in fitted.coefficients.values():
        torch.testing.assert_close(found, torch.tensor([0.0, 1.0]), atol=5e-3, rtol=0)
    again = fit_fw([weights(1), weights(2)], logits, data((0, 4), (0, 4)), FrankWolfeOptions(steps=30))
    assert len({tuple(found.tolist()) for found in again.coefficients.values()}) == 1


def test_frank_wolfe_leaves_alone_what_the_text_does_not_use():
    sources = [weights(number) | {"vision.w": randn(3, 3, seed=number)} for number in (1, 2)]
    fitted = fit_fw(sources, logits, data((0, 1), (1, 4)), FrankWolfeOptions(steps=3, per="layer"))
    assert fitted.coefficients["vision.w"].tolist() == [0.5, 0.5]


def test_tensors_that_are_the_same_in_all_models_are_not_merged():
    """Their coefficients stay, and what runs has the tensor itself, no sum of copies."""
    three = [weights(number) | {"head": weights(0)["head"]} for number in range(3)]
    seen = []

    def watched(of, inputs):
        seen.append(of["head"])
        return both(of, inputs)

    pieces, steps = data((0, 4), (0, 4)), 3
    expert = fit_expert(three[0], three[1:], watched, pieces, ExpertOptions(steps=steps))
    walked = fit_fw(three[1:], lambda *given: watched(*given)[0], pieces, FrankWolfeOptions(steps=steps, per="layer"))
    for fitted in (expert, walked):
        assert fitted.coefficients["head"].tolist() == [0.5, 0.5] != fitted.coefficients["layers.0.w"].tolist()
    assert {id(tensor) for tensor in seen} == {id(of["head"]) for of in three}
    twins = [three[0] | {"vision.w": randn(3, 3, seed=number)} for number in (1, 2)]  # no text uses what differs
    assert fit_fw(twins, logits, pieces, FrankWolfeOptions(steps=1)).coefficients["head"].tolist() == [0.5, 0.5]


def test_expert_gives_each_layer_to_the_model_whose_data_uses_it():
    options = ExpertOptions(steps=300, learning_rate=0.05, l1=0.0)
    fitted = fit_expert(weights(0), [weights(1), weights(2)], both, data((0, 1), (1, 4)), options)
    expected = dict(zip(NAMES, ([1.0, 0], [0.0, 1], [0.0, 1], [0.0, 1]), strict=True))
    for name, found in fitted.coefficients.items():
        torch.testing.assert_close(found, torch.tensor(expected[name]), atol=0.03, rtol=0)
    assert fitted.losses[-1] < 0.01 * fitted.losses[0]
    assert torch.equal(fitted.coefficients["layers.1.w"], fitted.coefficients["layers.1.b"])


def mute(of, inputs):
    """Logits that say nothing, and states that do."""
    return torch.zeros(len(inputs), 4) + 0 * logits(of, inputs)[:, :4], states(of, inputs)


def test_expert_learns_from_hidden_states_alone():
    """The second model is the base, and its text says nothing: all of the first model is wanted."""
    pieces, pair = [data((0, 4))[0], [torch.zeros(16, 24)]], [weights(1), weights(0)]
    options = ExpertOptions(steps=100, learning_rate=0.05, l1=0.0, hidden=1.0, per="model")
    heard = fit_expert(weights(0), pair, mute, pieces, options).coefficients
    for found in heard.values():
        assert float(found[0]) == pytest.approx(1, abs=0.02)
    deaf = fit_expert(weights(0), pair, mute, pieces, ExpertOptions(steps=10, l1=0.0)).coefficients
    assert all(torch.equal(found, torch.full((2,), 0.5)) for found in deaf.values())


def test_states_count_by_their_relative_distance():
    """A layer a thousand times as large pulls no more than another."""

    def coefficients(size):
        three = [{n: t * (size if n == "head" else 1) for n, t in weights(seed).items()} for seed in (0, 1, 2)]
        three[1]["head"] = three[0][
            "head"
        ]  # the first model did not touch it, so that the layers want different things
        options = ExpertOptions(steps=30, hidden=1.0, l1=0.0, per="model")
        return fit_expert(three[0], three[1:], mute, data((0, 4), (0, 4)), options).coefficients["head"]

    torch.testing.assert_close(coefficients(1000), coefficients(1), atol=1e-4, rtol=0)


def test_the_penalty_holds_coefficients_where_they_start():
    pieces, three = data((0, 1), (1, 4)), (weights(0), [weights(1), weights(2)])
    free, held = (fit_expert(*three, both, pieces, ExpertOptions(steps=50, l1=l1)).coefficients for l1 in (0.0, 1e4))
    for name in NAMES:
        assert (held[name] - 0.5).abs().max() < 0.3 * (free[name] - 0.5).abs().max()


@pytest.fixture(scope="module")
def three(tmp_path_factory, gpt):
    root = tmp_path_factory.mktemp("dam")
    for name, part in {"base": TEXT[:100], "a": TEXT[:6000], "b": TEXT[20_000:26_000]}.items():
        (root / f"{name}.txt").write_text(part)
        save(root / name, llama(len(gpt), seed=ord(name[0])), gpt)
    return root


def arguments(root, out, *more):
    texts = [part for name in "ab" for part in ("--text", str(root / f"{name}.txt"))]
    return ["dam", str(root / "a"), str(root / "b"), *texts, "--out", str(out), *more]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "method", "named"),
    [
        (("--per", "layer", "--hidden", "--base", "BASE"), "expert", ["base", "a", "b"]),
        (("--per", "model", "--base", "BASE", "--learning-rate", "0.1"), "expert", ["base", "a", "b"]),
        (("--frank-wolfe",), "fw", ["a", "b"]),
        (("--frank-wolfe", "--per", "layer"), "fw", ["a", "b"]),
    ],
)
def test_the_command(three, tmp_path, more, method, named):
    more = [str(three / "base") if part == "BASE" else part for part in more]
    out = tmp_path / "c.safetensors"
    done = CliRunner().invoke(app, arguments(three, out, *more, "--steps", "8", "--json"))
    content = json.loads(done.stdout)
    assert done.exit_code == 0 and content["method"] == method
    assert content["divergence"]["after"] < content["divergence"]["before"]
    found, tensors = load_file(out), load_file(three / "a/model.safetensors")
    assert found.keys() == tensors.keys() and {tuple(t.shape) for t in found.values()} == {(2,)}
    groups = len({tuple(t.tolist()) for t in found.values()})
    assert (groups == 1) == ((method == "fw" and len(more) == 1) or "model" in more)
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["models"]) == [str(three / name) for name in named]
    done = CliRunner().invoke(app, arguments(three, out, *more, "--steps", "1", "--overwrite"))
    assert f"is for merge_method: {method}" in " ".join(done.stdout.split())


def test_bad_input(three, tmp_path):
    out, base = tmp_path / "c.safetensors", str(three / "base")
    refused = {
        "--per is 'row'; it is one of": ("--per", "row"),
        "--hidden goes with --per layer": ("--hidden",),
        "--frank-wolfe goes with": ("--frank-wolfe", "--hidden"),
        "not with --hidden or --learning-rate": ("--frank-wolfe", "--learning-rate", "1"),
        "expert needs the model that the others were tuned from: give --base": ("--per", "layer"),
        "dam has no --base": ("--base", base),
        "fw has no --base": ("--frank-wolfe", "--base", base),
        "--steps is 0": ("--frank-wolfe", "--steps", "0"),
        "--learning-rate is 0.0": ("--per", "layer", "--base", base, "--learning-rate", "0"),
        "would replace": ("--per", "layer", "--base", str(out), "--overwrite"),
    }
    for message, more in refused.items():
        if message == "would replace":
            out.write_bytes(b"")
        done = CliRunner().invoke(app, arguments(three, out, *more))
        assert done.exit_code == 2 and message in " ".join(done.stderr.split()), (message, done.stderr)
    for options, wrong in ((ExpertOptions, {"hidden": -1.0}), (ExpertOptions, {"temperature": 0.0}),
                           (FrankWolfeOptions, {"temperature": 0.0})):  # fmt: skip
        with pytest.raises(InputError, match="must be"):
            options(**wrong)
    with pytest.raises(InputError, match="expert merges two models or more; here is 1"):
        train_dam([base], [three / "a.txt"], tmp_path / "d.safetensors", ExpertOptions(), base=base)
    with pytest.raises(InputError, match="dam merges two"):
        train_dam([base], [three / "a.txt"], tmp_path / "d.safetensors", DamOptions())
