"""There and back: what was never trained is the base again."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.cli.app import app
from tokensurgeon.surgery.revert import revert

TEXT = "def f(x):\n\treturn 'naïve' # 日本"


def there(zoo, tmp_path, base, donor, **options):
    transplant(str(zoo[base]), str(zoo[donor]), tmp_path / "there", TransplantOptions(k=8, **options))
    return tmp_path / "there"


@pytest.mark.parametrize(
    ("base", "donor"), [("gpt", "spm"), ("spm", "gpt"), ("untied", "spm"), ("biased", "untied-spm"), ("sharded", "spm")]
)
def test_there_and_back_is_the_base(zoo, tmp_path, base, donor):
    checks = revert(str(there(zoo, tmp_path, base, donor)), str(zoo[base]), tmp_path / "back")
    assert len(checks) > 8 and all(check.ok for check in checks)
    old, new = AutoModelForCausalLM.from_pretrained(zoo[base]), AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    for (name, one), (other_name, other) in zip(old.state_dict().items(), new.state_dict().items(), strict=True):
        assert name == other_name and torch.equal(one, other), name
    assert json.loads((tmp_path / "back/config.json").read_text())["vocab_size"] == old.config.vocab_size
    assert new.config.eos_token_id == old.config.eos_token_id
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in (zoo[base], tmp_path / "back")]
    assert tokenizers[0](TEXT)["input_ids"] == tokenizers[1](TEXT)["input_ids"]


def test_an_untied_head_stays_untied(zoo, tmp_path):
    revert(str(there(zoo, tmp_path, "gpt", "spm", untie=True)), str(zoo["gpt"]), tmp_path / "back")
    old, new = load_file(zoo["gpt"] / "model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(new[name], old["model.embed_tokens.weight"])


def test_what_was_learnt_stays(zoo, tmp_path):
    """A trained anchor's row comes back, and so does a trained body; rows of dropped tokens are the base's."""
    made = there(zoo, tmp_path, "gpt", "spm")
    manifest = Manifest.read(made)
    anchor = int(manifest.plan.ids(0)[7])
    tensors = load_file(made / "model.safetensors")
    tensors["model.embed_tokens.weight"][anchor] += 1
    tensors["model.norm.weight"] += 1
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    revert(str(made), str(zoo["gpt"]), tmp_path / "back")
    old, new = load_file(zoo["gpt"] / "model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    changed = (old["model.embed_tokens.weight"] != new["model.embed_tokens.weight"]).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [int(manifest.plan.source[anchor])]
    assert torch.equal(new["model.norm.weight"], old["model.norm.weight"] + 1)
    counts = Manifest.read(tmp_path / "back").content["counts"]
    assert counts["restored"] == len(changed) - counts["copied"] > 5


def test_what_cannot_be_reverted(zoo, tmp_path):
    made = there(zoo, tmp_path, "gpt", "spm")
    for model, base, message in (
        (zoo["gpt"], zoo["gpt"], "has no tokensurgeon.json"),
        (made, zoo["spm"], "is not the base that the model was made from"),
        (made, zoo["sharded"], "its model.embed_tokens.weight differs"),
    ):
        with pytest.raises(InputError, match=message):
            revert(str(model), str(base), tmp_path / "back")
    grown = tmp_path / "grown"
    shutil.copytree(made, grown)
    tensors = load_file(grown / "model.safetensors")
    tensors["model.embed_tokens.weight"] = torch.cat([tensors["model.embed_tokens.weight"]] * 2)
    save_file(tensors, grown / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((grown / "config.json").read_text())
    (grown / "config.json").write_text(json.dumps(settings | {"vocab_size": 2 * settings["vocab_size"]}))
    with pytest.raises(InputError, match="Its vocabulary was changed since"):
        revert(str(grown), str(zoo["gpt"]), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_the_command(zoo, tmp_path):
    made = there(zoo, tmp_path, "gpt", "spm")
    arguments = ["revert", str(made), "--base", str(zoo["gpt"]), "--out", str(tmp_path / "back")]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["verified"]
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "--overwrite" in again.output
