"""A .gguf file as input: a tiny Llama written with the gguf package, converted, and transplanted."""

from __future__ import annotations

import importlib.util
import json

import gguf
import pytest
import torch
from tiny import llama
from transformers import AutoModelForCausalLM, AutoTokenizer

import tokensurgeon.checkpoint.gguf as ours
from tokensurgeon import InputError, TransplantOptions, evaluate, export_gguf, transplant
from tokensurgeon.checkpoint import resolve
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.errors import MissingDependencyError
from tokensurgeon.progress import Stage
from tokensurgeon.surgery.transplant import default_output

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def permute(weight, heads):
    """llama.cpp's order of rotary dimensions."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


@pytest.fixture
def tiny(tmp_path, gpt, monkeypatch):
    monkeypatch.setenv("TOKENSURGEON_CACHE", str(tmp_path / "cache"))
    model = llama(len(gpt), seed=11)
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(gpt))
    spec = json.loads(gpt.backend_tokenizer.to_str())
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(gpt.convert_ids_to_tokens(range(len(gpt))))
    writer.add_token_types([3 if i < 4 else 1 for i in range(len(gpt))])
    writer.add_token_merges([" ".join(pair) for pair in spec["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in model.state_dict().items():
        data = tensor.detach().float()
        if name == "lm_head.weight":
            continue
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            data = permute(data, 2 if "q_proj" in name else 1)
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            target = f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"
        else:
            target = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
        writer.add_tensor(target, data.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model.eval()


def test_converted_once_and_right(tiny, tmp_path, gpt):
    path, model = tiny
    directory = resolve(str(path))
    assert directory.parent == tmp_path / "cache" / "gguf"
    stamp = (directory / "model.safetensors").stat().st_mtime_ns
    assert resolve(str(path)) == directory and (directory / "model.safetensors").stat().st_mtime_ns == stamp
    ids = torch.tensor([[5, 100, 300, 7]])
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(directory)(ids).logits
        torch.testing.assert_close(again, model(ids).logits, rtol=1e-3, atol=1e-3)
    text = "The value of x"
    assert AutoTokenizer.from_pretrained(directory)(text)["input_ids"] == gpt(text)["input_ids"]
    assert len(list((tmp_path / "cache" / "gguf").iterdir())) == 1


def test_as_base_and_as_donor(tiny, zoo, tmp_path):
    path, _ = tiny
    for pair in ((path, zoo["spm"]), (zoo["spm"], path)):
        report = transplant(str(pair[0]), str(pair[1]), tmp_path / "out", TransplantOptions(k=8), overwrite=True)
        assert all(check.ok for check in report.checks)


def test_a_conversion_is_called_as_its_file(tiny, tmp_path, zoo):
    """Not by the cache's name, which ends in a digest."""
    directory = resolve(str(tiny[0]))
    assert directory.name != "tiny"
    assert OpenModel.open(str(directory)).name == "tiny" and OpenModel.open(str(tiny[0])).name == "tiny.gguf"
    assert default_output(str(directory), str(tiny[0])).name == "tiny-with-tiny-tokenizer"
    report = transplant(str(directory), str(zoo["spm"]), tmp_path / "out", TransplantOptions(k=8, forward=False))
    assert report.content["base"]["name"] == "tiny"
    assert "`tiny`" in (tmp_path / "out/README.md").read_text()
    stages = set()
    evaluate(str(directory), {"a": "some text"}, progress=lambda stage, *_: stages.add(stage))
    assert stages == {Stage.SCORE.of("tiny")}
    export_gguf(str(directory), tmp_path / "new.gguf")
    assert gguf.GGUFReader(tmp_path / "new.gguf").get_field("general.name").contents() == "tiny"


def test_garbage(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSURGEON_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(InputError, match=r"cannot read this GGUF"):
        resolve(str(path))
    assert not list((tmp_path / "cache" / "gguf").iterdir())


def test_without_the_gguf_package(tmp_path, monkeypatch):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")
    real = importlib.util.find_spec
    monkeypatch.setattr(ours.importlib.util, "find_spec", lambda name: None if name == "gguf" else real(name))
    with pytest.raises(MissingDependencyError, match=r"tokensurgeon\[gguf\]"):
        resolve(str(path))
