"""The Fisher information of models whose own is known, and the command."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny import TEXT
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tokensurgeon import InputError
from tokensurgeon.cli.app import app
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.texts import split_bytes
from tokensurgeon.merging.estimate.fisher import estimate_fisher, fisher_diagonal
from tokensurgeon.merging.estimate.loading import TokenRows, token_rows


class Biased(torch.nn.Module):
    """Logits that are a bias: softmax regression without features, whose Fisher diagonal is p (1 - p)."""

    def __init__(self, logits):
        """Take the bias."""
        super().__init__()
        self.bias = torch.nn.Parameter(logits)
        self.unused = torch.nn.Parameter(torch.ones(2))

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.bias.expand(*input_ids.shape, -1))


def test_the_fisher_of_a_bias():
    logits = torch.tensor([0.5, -1.0, 2.0])
    rows = [torch.zeros(1, length + 1, dtype=torch.int64) for length in (1, 7, 30) * 600]
    found, count = fisher_diagonal(Biased(logits), rows, torch.Generator().manual_seed(0))
    p = torch.softmax(logits, 0)
    assert count == 38 * 600
    torch.testing.assert_close(found["bias"], p * (1 - p), atol=0.01, rtol=0)
    assert torch.equal(found["unused"], torch.zeros(2))


@pytest.mark.parametrize("kind", ["gpt", "untied"])
def test_a_language_model(zoo, tmp_path, kind):
    (tmp_path / "t.txt").write_text(TEXT[:6000])
    told = []
    report = estimate_fisher(
        str(zoo[kind]), [tmp_path / "t.txt"], tmp_path / "f.safetensors", pieces=3,
        progress=lambda *news: told.append(news),
    )  # fmt: skip
    found, model = load_file(tmp_path / "f.safetensors"), load_file(zoo[kind] / "model.safetensors")
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in model.items()}
    assert report.pieces == 3 == len(told) and report.tokens > 100 and report.mean > 0
    assert all(bool((value >= 0).all()) and value.dtype == torch.float32 for value in found.values())
    again = estimate_fisher(str(zoo[kind]), [tmp_path / "t.txt"], tmp_path / "g.safetensors", pieces=3)
    assert again.mean == report.mean


def test_pieces_are_from_all_over_the_text(zoo, tmp_path, monkeypatch):
    (tmp_path / "t.txt").write_text("".join(f"line {i:06} of a text\n" for i in range(200)))
    read = []

    def rows(_, pieces):
        read.extend(pieces)
        return [torch.ones(1, 2, dtype=torch.int64)]

    monkeypatch.setattr("tokensurgeon.merging.estimate.fisher.token_rows", rows)
    pieces = split_bytes((tmp_path / "t.txt").read_text(), 1024)
    assert len(pieces) == 5
    estimate_fisher(str(zoo["gpt"]), [tmp_path / "t.txt"], tmp_path / "f.safetensors", pieces=3)
    assert read == [pieces[0], pieces[1], pieces[3]]


def test_the_command(zoo, tmp_path):
    (tmp_path / "t.txt").write_text(TEXT[:3000])
    out = tmp_path / "f.safetensors"
    arguments = ["fisher", str(zoo["gpt"]), "--text", str(tmp_path / "t.txt"), "--out", str(out), "--pieces", "2"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    content = json.loads(done.stdout)
    assert done.exit_code == 0 and content["pieces"] == 2 and content["parameters"] > 20_000
    first = load_file(out)
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    done = CliRunner().invoke(app, [*arguments, "--overwrite", "--seed", "1"])
    assert done.exit_code == 0 and "the Fisher information of" in " ".join(done.stdout.split())
    assert any(not torch.equal(first[name], value) for name, value in load_file(out).items())


def test_half_precision_does_not_lose_gradients(zoo, tmp_path):
    (tmp_path / "t.txt").write_text(TEXT[:3000])
    means = []
    for dtype in (torch.float32, torch.float16):
        model = AutoModelForCausalLM.from_pretrained(zoo["gpt"], dtype=dtype)
        model.save_pretrained(tmp_path / str(dtype))
        AutoTokenizer.from_pretrained(zoo["gpt"]).save_pretrained(tmp_path / str(dtype))
        out = tmp_path / f"{dtype}.safetensors"
        means.append(estimate_fisher(str(tmp_path / str(dtype)), [tmp_path / "t.txt"], out, pieces=2).mean)
    assert means[1] == pytest.approx(means[0], rel=0.05)


def test_bad_input(zoo, tmp_path, copy_of):
    with pytest.raises(InputError, match="needs a text"):
        estimate_fisher(str(zoo["gpt"]), [], tmp_path / "f.safetensors")
    (tmp_path / "t.txt").write_text(TEXT[:3000])
    with pytest.raises(InputError, match="at least one piece"):
        estimate_fisher(str(zoo["gpt"]), [tmp_path / "t.txt"], tmp_path / "f.safetensors", pieces=0)
    quantised = copy_of("gpt")
    config = json.loads((quantised / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(InputError, match="is quantised"):
        estimate_fisher(str(quantised), [tmp_path / "t.txt"], tmp_path / "f.safetensors")


def test_rows_that_are_made_when_they_are_asked_for_are_the_same(zoo):
    loaded, told = load_model(zoo["gpt"]), []
    loaded.model.config.max_position_embeddings = 100  # so that a piece has several
    pieces = split_bytes(TEXT[:6000], 1024)
    rows = TokenRows(loaded, pieces, lambda *news: told.append(news))
    wanted = token_rows(loaded, pieces)
    assert len(rows) == len(wanted) > 2 * len(pieces) == 2 * len(told)
    assert all(torch.equal(a, b) for a, b in zip(rows, wanted, strict=True))
    assert torch.equal(rows[3:5][1], wanted[4])
