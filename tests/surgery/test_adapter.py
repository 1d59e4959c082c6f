"""LoRA adapters of a base that was transplanted, made and loaded by PEFT."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.cli.app import app
from tokensurgeon.surgery.adapter import carry_adapter
from tokensurgeon.vocabulary.visible import visible

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # PEFT's, on tied models


def adapter_of(base, out, **settings):
    """Random, so that it changes something."""
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.normal_(0, 0.3)
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def made(zoo, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    report = transplant(str(zoo["gpt"]), str(zoo["spm"]), root / "model", TransplantOptions(k=8))
    adapter = adapter_of(zoo["gpt"], root / "adapter", target_modules="all-linear")
    return report, root / "model", adapter


def test_the_card_of_an_adapter_with_a_hostile_name(made, tmp_path):
    _, model, adapter = made
    name = "a\x1b[31m\u202e`<b>\n---\n# x"
    for source, copy in ((adapter, tmp_path / name), (model, tmp_path / f"m{name}")):
        shutil.copytree(source, copy)
    carry_adapter(str(tmp_path / name), str(tmp_path / f"m{name}"), tmp_path / "out")
    lines = (tmp_path / "out/README.md").read_text().split("\n")
    assert all(map(str.isprintable, lines)) and lines.count("---") == 2 and "# x" not in lines
    assert json.loads(lines[2].removeprefix("base_model: ")).endswith("m" + visible(name))


def test_it_does_to_shared_tokens_what_it_did(made, zoo, tmp_path):
    report, model, adapter = made
    modules = carry_adapter(str(adapter), str(model), tmp_path / "out")
    assert len(modules) == 14 and "model.layers.0.mlp.down_proj" in modules
    ids = report.alignment.plan.anchors[100:160]
    logits = []
    for directory, lora, tokens in (
        (zoo["gpt"], adapter, report.alignment.plan.source[ids]), (model, tmp_path / "out", ids),
    ):  # fmt: skip
        body = AutoModelForCausalLM.from_pretrained(directory)
        some = torch.from_numpy(tokens)[None]
        with torch.inference_mode():
            plain = body(input_ids=some).logits[0][:, tokens]
            logits.append(PeftModel.from_pretrained(body, lora)(input_ids=some).logits[0][:, tokens])
        assert (plain - logits[-1]).abs().max() > 0.1
    torch.testing.assert_close(*logits)
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(model.resolve()) and config["r"] == 4


def test_a_tokenizer_beside_it_is_the_new_one(made, zoo, tmp_path):
    _, model, adapter = made
    AutoTokenizer.from_pretrained(zoo["gpt"]).save_pretrained(adapter)
    carry_adapter(str(adapter), str(model), tmp_path / "out")
    text = "def f(x): return x"
    new, old = (AutoTokenizer.from_pretrained(place)(text)["input_ids"] for place in (tmp_path / "out", model))
    assert new == old


def test_pickled_weights(made, tmp_path):
    _, model, adapter = made
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    torch.save(load_file(adapter / "adapter_model.safetensors"), pickled / "adapter_model.bin")
    (pickled / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    assert len(carry_adapter(str(pickled), str(model), tmp_path / "out")) == 14
    assert (tmp_path / "out/adapter_model.bin").is_file()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, "model.embed_tokens"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]}, "model.embed_tokens"),
    ],
)
def test_one_that_touches_the_vocabulary_is_refused(made, zoo, tmp_path, settings, named):
    _, model, _ = made
    adapter = adapter_of(zoo["gpt"], tmp_path / "adapter", **settings)
    with pytest.raises(InputError, match=rf"changes .*{named}.*Merge the adapter into its base first"):
        carry_adapter(str(adapter), str(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_of_another_model_is_refused(made, zoo, tmp_path):
    _, model, _ = made
    wider = adapter_of(zoo["spm"], tmp_path / "wider", target_modules=["q_proj"])
    with pytest.raises(InputError, match=r"does not fit model\.layers\.0\.self_attn\.q_proj\.weight"):
        carry_adapter(str(wider), str(model), tmp_path / "out")
    other = adapter_of(zoo["neox"], tmp_path / "other", target_modules=["query_key_value"])
    with pytest.raises(InputError, match=r"has no .*query_key_value"):
        carry_adapter(str(other), str(model), tmp_path / "out")


def test_bad_input(made, zoo, tmp_path):
    _, model, adapter = made
    with pytest.raises(InputError, match=r"has no tokensurgeon\.json"):
        carry_adapter(str(adapter), str(zoo["gpt"]), tmp_path / "out")
    with pytest.raises(InputError, match="it is no adapter"):
        carry_adapter(str(zoo["gpt"]), str(model), tmp_path / "out")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="no peft_type"):
        carry_adapter(str(broken), str(model), tmp_path / "out")
    (broken / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(InputError, match="has neither adapter_model"):
        carry_adapter(str(broken), str(model), tmp_path / "out")
    save_file({"a": torch.zeros(2)}, broken / "adapter_model.safetensors")
    path = broken / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="truncated"):
        carry_adapter(str(broken), str(model), tmp_path / "out")


def test_the_command(made, tmp_path):
    _, model, adapter = made
    arguments = ["adapter", str(adapter), str(model), "--out", str(tmp_path / "out")]
    assert "changes 14 modules" in " ".join(CliRunner().invoke(app, arguments).stdout.split())
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    result = CliRunner().invoke(app, [*arguments, "--overwrite", "--json"])
    assert len(json.loads(result.stdout)["modules"]) == 14


def test_parameters_of_all_experts(made, tmp_path):
    """PEFT's ``target_parameters``: a factor belongs to a module that has no weight of its own."""
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA", "r": 2, "target_parameters": ["mlp.experts.gate_up_proj"]}))
    _, model, _ = made
    for module, fits in (("mlp.base_layer", True), ("mlp.experts", False)):
        name = f"base_model.model.model.layers.0.{module}.lora_A.weight"
        save_file({name: torch.zeros(2, 32)}, tmp_path / "adapter_model.safetensors")
        if fits:
            assert len(carry_adapter(str(tmp_path), str(model), tmp_path / "out" / "a")) == 1
        else:
            with pytest.raises(InputError, match="It is for another model"):
                carry_adapter(str(tmp_path), str(model), tmp_path / "out" / "b")
