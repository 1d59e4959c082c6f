"""Resizing: the same tokenizer and rows, more padding or less."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny import fast, llama, save, sentencepiece_bpe
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tokensurgeon import InputError, VerificationError
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.cli.app import app
from tokensurgeon.surgery.resize import resize
from tokensurgeon.surgery.revert import revert

TEXT = "def f(x):\n\treturn 'naïve' # 日本"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """600 ids and some in 1024 rows, tied, with settings of its own."""
    tokenizer = fast(sentencepiece_bpe(600), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return save(tmp_path_factory.mktemp("padded") / "model", llama(1024), tokenizer)


def ids_of(directory):
    return max(AutoTokenizer.from_pretrained(directory).get_vocab().values()) + 1


@pytest.mark.parametrize("kind", ["gpt", "untied", "biased", "sharded"])
def test_rows_that_stay_are_the_same_and_new_ones_take_no_probability(zoo, tmp_path, kind):
    old = AutoModelForCausalLM.from_pretrained(zoo[kind]).eval()
    before = old.config.vocab_size
    report = resize(str(zoo[kind]), tmp_path / "out", rows=before + 60)
    assert (report.before, report.after) == (before, before + 60) and report.content["verified"]
    assert Manifest.read(tmp_path / "out").plan.counts()["padding"] == 60
    new = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert new.config.vocab_size == before + 60
    for (name, one), (other, two) in zip(old.state_dict().items(), new.state_dict().items(), strict=True):
        assert name == other and torch.equal(one, two[: len(one)]), name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    assert ids.tolist() == AutoTokenizer.from_pretrained(zoo[kind])(TEXT, return_tensors="pt")["input_ids"].tolist()
    with torch.inference_mode():
        one, two = (model(input_ids=ids).logits[0].float() for model in (old, new))
    assert torch.allclose(one, two[:, :before], atol=1e-4)
    assert two.softmax(-1)[:, before:].sum(-1).max() < 1e-3


def test_padding_is_cut_and_comes_back(padded, tmp_path):
    resize(str(padded), tmp_path / "small", pad_to_multiple_of=128)
    old, new = load_file(padded / "model.safetensors"), load_file(tmp_path / "small/model.safetensors")
    rows = -(-ids_of(padded) // 128) * 128
    assert len(new[EMBEDDING]) == rows < 1024 and torch.equal(old[EMBEDDING][:rows], new[EMBEDDING])
    revert(str(tmp_path / "small"), str(padded), tmp_path / "back")
    back = load_file(tmp_path / "back/model.safetensors")
    assert old.keys() == back.keys() and all(torch.equal(old[name], back[name]) for name in old)


def test_settings_stay_but_for_the_size(padded, tmp_path, monkeypatch):
    """Also where they say otherwise than the tokenizer does, and where there is no generation_config.json."""
    model = shutil.copytree(padded, tmp_path / "model")
    (model / "generation_config.json").unlink()
    config = json.loads((model / "config.json").read_text())
    config |= {"bos_token_id": 7, "pad_token_id": 9, "eos_token_id": [2, 5], "suppress_tokens": [3, 1000, 5000]}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"--rows 900 .*: suppress_tokens in config\.json is 1000\. .* --rows 1001"):
        resize(str(model), tmp_path / "out", rows=900)
    report = resize(str(model), tmp_path / "out", rows=1100)
    after = json.loads((tmp_path / "out/config.json").read_text())
    assert after == config | {"vocab_size": 1100, "suppress_tokens": [3, 1000]}
    assert "suppress_tokens: 1 of its 3 entries (first: 5000)" in report.content["removed_settings"][0]
    assert not (tmp_path / "out/generation_config.json").exists()

    monkeypatch.setattr(
        "tokensurgeon.checkpoint.small_files.write_resized",
        lambda _, work, *__: (work / "config.json").write_text(json.dumps(config | {"vocab_size": 1100})),
    )
    with pytest.raises(VerificationError, match="config suppress_tokens names id 5000, 1100 rows"):
        resize(str(model), tmp_path / "bad", rows=1100)
    assert not (tmp_path / "bad").exists()


def test_what_is_refused(padded, tmp_path):
    top = ids_of(padded) - 1
    for wanted, message in (
        ({}, "needs one of --rows N and --pad-to-multiple-of M"),
        ({"rows": 9, "pad_to_multiple_of": 9}, "and not both"),
        ({"rows": 0}, "--rows 0 must be at least 1"),
        ({"pad_to_multiple_of": -8}, "--pad-to-multiple-of -8 must be at least 1"),
        ({"rows": top}, rf"--rows {top} would cut rows .*: token .* has id {top}\. Give at least --rows {top + 1}"),
        ({"rows": 1024}, "nothing to do: model has 1024 rows already"),
    ):
        with pytest.raises(InputError, match=message):
            resize(str(padded), tmp_path / "out", **wanted)
    assert not (tmp_path / "out").exists()


def test_the_command(padded, tmp_path):
    arguments = ["resize", str(padded), "--rows", "1000", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "1,000 rows, 1,024 before" in " ".join(done.stdout.split())
    assert "1,000 rows" in (tmp_path / "out/README.md").read_text() and (tmp_path / "out/report.html").is_file()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "--overwrite" in again.stderr
