"""DAM's training on problems whose coefficients are known, and the command."""

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
from tokensurgeon.merging.estimate.dam_training import DamOptions, fit

FREE = {"similarity": 0.0, "l1": 0.0, "l2": 0.0}


def linear(weights, inputs):
    return inputs @ weights["w"].T


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_each_column_goes_to_the_model_whose_data_uses_it():
    """Model A's data excites columns 0 to 2 only, B's 3 to 5: there the merged model must be A, and B."""
    sources = [{"w": randn(8, 6, seed=s)} for s in (0, 1)]
    data = [[torch.zeros(16, 6) for _ in range(20)] for _ in sources]
    for s, pieces in enumerate(data):
        for i, piece in enumerate(pieces):
            piece[:, 3 * s : 3 * s + 3] = randn(16, 3, seed=100 * s + i)
    told = []
    options = DamOptions(steps=400, learning_rate=0.05, **FREE)
    fitted = fit(sources, linear, data, options, tell=lambda *news: told.append(news))
    expected = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
    torch.testing.assert_close(fitted.coefficients["w"], expected, atol=0.02, rtol=0)
    assert fitted.losses[-1] < 0.001 * fitted.losses[0] and told[-1] == (400, fitted.losses[-1])


def test_the_penalties_pull_where_they_should():
    """On data that says nothing only they act: L1 and L2 towards zero, similarity apart."""
    sources, data = [{"w": randn(4, 6, seed=s)} for s in (0, 1)], [[torch.zeros(1, 6)]] * 2
    start = fit(sources, linear, data, DamOptions(steps=20, **FREE)).coefficients["w"]
    assert torch.equal(start, torch.full((2, 6), 0.5))
    for name in ("l1", "l2"):
        pulled = fit(sources, linear, data, DamOptions(steps=20, **FREE | {name: 1.0})).coefficients["w"]
        assert bool((pulled < start).all()), name
    alike = [{"w": randn(4, 6, seed=0)}] * 2
    noisy = [[randn(8, 6, seed=2)], [randn(8, 6, seed=3)]]
    apart = fit(
        [{"w": 2 * alike[0]["w"]}, alike[1]], linear, noisy, DamOptions(steps=200, **FREE | {"similarity": 10.0})
    )
    plain = fit([{"w": 2 * alike[0]["w"]}, alike[1]], linear, noisy, DamOptions(steps=200, **FREE))
    cosines = [torch.cosine_similarity(*f.coefficients["w"], dim=0) for f in (apart, plain)]
    assert cosines[0] < cosines[1]


@pytest.fixture(scope="module")
def pair(tmp_path_factory, gpt):
    root = tmp_path_factory.mktemp("dam")
    for name, part in {"a": TEXT[:6000], "b": TEXT[20_000:26_000]}.items():
        (root / f"{name}.txt").write_text(part)
        save(root / name, llama(len(gpt), seed=ord(name)), gpt)
    return root


@pytest.mark.slow
def test_the_command(pair, tmp_path):
    out = tmp_path / "c.safetensors"
    models = [str(pair / name) for name in "ab"]
    texts = [part for name in "ab" for part in ("--text", str(pair / f"{name}.txt"))]
    arguments = ["dam", *models, *texts, "--out", str(out), "--steps", "10", "--learning-rate", "0.05"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    content = json.loads(done.stdout)
    assert done.exit_code == 0 and content["models"] == models and content["steps"] == 10
    assert content["divergence"]["after"] < content["divergence"]["before"]
    tensors, found = load_file(pair / "a/model.safetensors"), load_file(out)
    assert {n: (2, t.shape[-1]) for n, t in tensors.items()} == {n: tuple(t.shape) for n, t in found.items()}
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["models"]) == models
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    assert content["method"] == "dam"
    done = CliRunner().invoke(app, [*arguments, "--overwrite", "--seed", "1"])
    assert done.exit_code == 0 and "10 steps" in " ".join(done.stdout.split())
    assert any(not torch.equal(found[name], value) for name, value in load_file(out).items())


def test_bad_input(pair, zoo, tmp_path, gpt):
    a, b, text, out = str(pair / "a"), str(pair / "b"), pair / "a.txt", tmp_path / "c.safetensors"
    wide = str(save(tmp_path / "wide", llama(len(gpt), dim=48), gpt))
    refused = {
        "two models or more": ([a], [text]),
        "2 models and 1 texts": ([a, b], [text]),
        "different tokenizers; transplant": ([a, str(zoo["untied-spm"])], [text] * 2),
        r"do not go together: model.embed_tokens.weight is \(700, 32\)": ([a, wide], [text] * 2),
    }
    for message, (models, texts) in refused.items():
        with pytest.raises(InputError, match=message):
            train_dam(models, texts, out)
    assert not out.exists()
    for wrong in ({"steps": 0}, {"learning_rate": 0.0}, {"temperature": -1.0}):
        with pytest.raises(InputError, match="must be"):
            DamOptions(**wrong)
