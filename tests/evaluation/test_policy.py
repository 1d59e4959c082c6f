"""Models that are not run, and what stays right all the same."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokensurgeon import InputError, TransplantOptions, VerificationError, resize, transplant, trim
from tokensurgeon.checkpoint import Checkpoint, find_vocabulary_tensors
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.evaluation import policy
from tokensurgeon.report.card import warnings
from tokensurgeon.transfer.silence import estimated_suppressing_row
from tokensurgeon.verification.verify import verify

K8 = TransplantOptions(k=8)


@pytest.fixture
def unloadable(monkeypatch):
    """Nothing may load a model."""

    def fail(*_):
        raise AssertionError("a model was loaded")

    for room in ("evaluation.states", "verification.running"):
        monkeypatch.setattr(f"tokensurgeon.{room}.load_model", fail)


def change(directory, **entries):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.usefixtures("unloadable")
def test_a_large_body_is_not_read(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(policy, "computes_in_bfloat16", lambda _: True)
    for limit in ("FORWARD_LIMIT", "CPU_LIMIT"):
        monkeypatch.setattr(f"tokensurgeon.evaluation.policy.{limit}", 1000)
    report = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", K8)
    assert (
        "unasked; --forward runs it" in report.content["not_run"]
        and "not run" in report.content["verified"]["forward pass"]
    )
    assert any("was not run (its body has" in warning for warning in warnings(report.content))
    assert "was not run" in (tmp_path / "out/README.md").read_text()
    rows = load_file(tmp_path / "out/model.safetensors")["model.embed_tokens.weight"]
    dead = Manifest.read(tmp_path / "out").plan.silenced
    base = load_file(zoo["gpt"] / "model.safetensors")["model.embed_tokens.weight"]
    known = torch.tensor(sorted(report.base.vocabulary.text_ids().values()))
    assert len(dead) > 20 and torch.equal(rows[dead], estimated_suppressing_row(base, known).expand(len(dead), -1))


def test_what_has_no_flag_for_it_names_the_command_that_has(zoo, tmp_path, monkeypatch):
    """An output of `trim`, `resize`, `revert` or `extend` is run by `verify --forward`."""
    monkeypatch.setattr(policy, "FORWARD_LIMIT", 1000)
    monkeypatch.setattr(policy, "CPU_LIMIT", 1000)
    (tmp_path / "t.txt").write_text("the value of x is 42\n" * 20)
    trimmed = trim(str(zoo["gpt"]), [tmp_path / "t.txt"], tmp_path / "a")
    resized = resize(str(zoo["gpt"]), tmp_path / "b", rows=1024)
    assert all("; verify --forward runs it" in made.content["not_run"] for made in (trimmed, resized))


ROOMY = {"free": 2.0, "host": 9.0, "fast": True, "limit": 9.0}


@pytest.mark.parametrize(
    ("device", "given", "why"),
    [
        ("cpu", {}, None), ("cpu", {"free": 1.99}, "where cpu has"), ("cpu", {"limit": 0.99}, "unasked; --forward"),
        ("cpu", {"fast": False}, "would take long"), ("cpu", {"kind": "F16"}, "would take long"),
        ("cpu", {"kind": "BF16"}, None), ("cpu", {"kind": "BF16", "declared": "float32"}, "where cpu has"),
        ("cuda", {"limit": 0.0}, None), ("cuda", {"free": 1.99}, "where cuda"), ("cuda", {"fast": False}, "where cuda"),
        ("cuda", {"fast": False, "free": 4.0}, None), ("cuda", {"host": 0.99}, "where cpu has"),
    ],
)  # fmt: skip
def test_a_large_body_is_run_where_there_is_room(zoo, monkeypatch, device, given, why):
    """Measured by the model in numbers of 16 bits, twice as much as which must be free."""
    how = ROOMY | given
    files, layout = Checkpoint.open(zoo["gpt"]), OpenModel.open(str(zoo["gpt"])).layout
    size = 2 * sum(math.prod(info.shape) for info in files.tensors.values())
    if "kind" in how:
        first = next(iter(files.tensors))
        other = {first: replace(files.tensors[first], dtype=how["kind"])}
        files = replace(files, tensors=dict(files.tensors) | other)
    monkeypatch.setattr(policy, "FORWARD_LIMIT", 0)
    monkeypatch.setattr(policy, "CPU_LIMIT", int(how["limit"] * size))
    free = {device: how["free"], "cpu": how["host"] if device != "cpu" else how["free"]}
    monkeypatch.setattr(policy, "free_memory", lambda place: int(free[place.type] * size) + 1)
    monkeypatch.setattr(policy, "computes_in_bfloat16", lambda _: how["fast"])
    monkeypatch.setattr(policy, "pick_device", torch.device)
    monkeypatch.setattr(policy, "read_config", lambda _: {"dtype": how.get("declared", "bfloat16")})
    found = policy.why_not_run(zoo["gpt"], files, layout, None, device)
    assert (found is None) == (why is None) and (why is None or why in str(found))


def test_forward_can_be_asked_for_and_refused(zoo, tmp_path, monkeypatch):
    for limit in ("FORWARD_LIMIT", "CPU_LIMIT"):
        monkeypatch.setattr(f"tokensurgeon.evaluation.policy.{limit}", 1000)
    asked = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "a", TransplantOptions(k=8, forward=True))
    assert asked.content["not_run"] is None and "finite" in asked.content["verified"]["forward pass"]
    also = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "b", TransplantOptions(k=8, calibrate=True))
    assert also.content["not_run"] is None
    monkeypatch.undo()
    refused = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "c", TransplantOptions(k=8, forward=False))
    assert refused.content["not_run"] == "--no-forward"
    with pytest.raises(InputError, match="calibrate asks the base"):
        TransplantOptions(calibrate=True, forward=False)
    with pytest.raises(InputError, match="method auto asks the base"):
        TransplantOptions(method="auto", forward=False)
    with pytest.raises(InputError, match="forward='yes' must be"):
        TransplantOptions(forward="yes")


def test_estimated_rows_are_quieter_than_any_token():
    """Frequent tokens first: states that find them likelier by some nats silence the row."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(32, generator=generator)
    head = 0.3 * torch.randn(2000, 32, generator=generator)
    head -= torch.linspace(0, 5, 2000)[:, None] * direction / direction.square().sum()
    states = direction + 0.3 * torch.randn(500, 32, generator=generator)
    logits = states @ estimated_suppressing_row(head, torch.arange(2000))
    assert (logits - torch.logsumexp(states @ head.T, dim=1)).max() < -20
    # Rows that were never trained before the tokens, and padding behind them.
    padded = torch.cat([0.3 * torch.randn(600, 32, generator=generator), head, torch.zeros(300, 32)])
    assert torch.equal(
        estimated_suppressing_row(padded, torch.arange(600, 2600)), estimated_suppressing_row(head, torch.arange(2000))
    )


def quantised(directory):
    """The body in float8, as such checkpoints store it; the embedding stays."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for name in [n for n in tensors if "proj" in n]:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.ones(1, 1)
    save_file(tensors, path, metadata={"format": "pt"})
    change(directory, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    return directory


def test_a_quantised_body_is_not_cast(copy_of, zoo, tmp_path):
    with pytest.raises(InputError, match="quantised and cannot be converted to float16"):
        transplant(
            str(quantised(copy_of("gpt"))), str(zoo["spm"]), tmp_path / "out", TransplantOptions(k=8, dtype="float16")
        )


@pytest.mark.usefixtures("unloadable")
def test_a_quantised_body_passes_through(copy_of, zoo, tmp_path):
    base = quantised(copy_of("gpt"))
    report = transplant(str(base), str(zoo["spm"]), tmp_path / "out", K8)
    assert report.content["not_run"] == "its body is quantised"
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert set(before) == set(after) and len([n for n in before if n.endswith("scale_inv")]) > 10
    for name in set(before) - {"model.embed_tokens.weight"}:
        assert before[name].dtype == after[name].dtype
        assert torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8))
    assert json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]["quant_method"] == "fp8"


def with_next_token_layers(directory, model, tokenizer, spoil=False):
    """As DeepSeek-V3 stores its multi-token prediction: copies of embedding and head in a layer beyond the last."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.61.embed_tokens.weight"] = tensors["model.embed_tokens.weight"] + (1 if spoil else 0)
    tensors["model.layers.61.shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture
def deepseek(gpt):
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = DeepseekV3Config(
        vocab_size=len(gpt), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, n_routed_experts=2, num_experts_per_tok=1, n_group=1, topk_group=1,
        moe_intermediate_size=16, q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
        bos_token_id=gpt.bos_token_id, eos_token_id=gpt.eos_token_id, pad_token_id=gpt.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    return DeepseekV3ForCausalLM(config)


def test_next_token_layers_get_the_new_rows_too(deepseek, gpt, zoo, tmp_path):
    base = with_next_token_layers(tmp_path / "base", deepseek, gpt)
    options = TransplantOptions(k=8, forward=False)
    transplant(str(base), str(zoo["spm"]), tmp_path / "out", options)
    new = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(new["model.layers.61.embed_tokens.weight"], new["model.embed_tokens.weight"])
    assert torch.equal(new["model.layers.61.shared_head.head.weight"], new["lm_head.weight"])
    new["model.layers.61.shared_head.head.weight"][3] += 1
    save_file(new, tmp_path / "out/model.safetensors", metadata={"format": "pt"})
    failed = {check.name for check in verify(tmp_path / "out", base) if not check.ok}
    assert failed == {"copies of the embedding", "tensors as written"}


def test_a_vocabulary_sized_stranger_is_refused(deepseek, gpt, zoo, tmp_path):
    base = with_next_token_layers(tmp_path / "base", deepseek, gpt, spoil=True)
    with pytest.raises(InputError, match=r"layers\.61\.embed_tokens\.weight has one row per token too"):
        transplant(str(base), str(zoo["spm"]), tmp_path / "out", K8)


def seq2seq(kind, directory, tokenizer, **settings):
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), d_model=32, **settings, decoder_start_token_id=tokenizer.pad_token_id, **ids
    )
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_an_encoder_decoder(gpt, zoo, tmp_path):
    """T5: body untouched, and the same logits for text of shared tokens."""
    from transformers import AutoModelForSeq2SeqLM

    base = seq2seq("t5", tmp_path / "t5", gpt, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    out = tmp_path / "out"
    report = transplant(str(base), str(zoo["spm"]), out, K8)
    assert report.content["not_run"] == "it is an encoder-decoder model"
    plan = report.alignment.plan
    ids = plan.anchors[50:90]
    logits = []
    for directory, tokens in ((base, plan.source[ids]), (out, ids)):
        model = AutoModelForSeq2SeqLM.from_pretrained(directory)
        assert model.config.vocab_size == model.get_output_embeddings().weight.shape[0]
        some = torch.from_numpy(tokens)[None]
        with torch.inference_mode():
            logits.append(model(input_ids=some, decoder_input_ids=some).logits[0][:, tokens])
    torch.testing.assert_close(*logits)


def test_a_bias_beside_the_head_is_refused(gpt, zoo, tmp_path):
    sizes = {f"{side}_{name}": n for side in ("encoder", "decoder")
             for name, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
    base = seq2seq("bart", tmp_path / "bart", gpt, **sizes)
    with pytest.raises(InputError, match="final_logits_bias has one row per token too"):
        transplant(str(base), str(zoo["spm"]), tmp_path / "out", K8)


def test_autotokenizer_is_asked_all_the_same(zoo, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    other, own = (AutoTokenizer.from_pretrained(zoo[kind]) for kind in ("gpt", "spm"))
    monkeypatch.setattr("tokensurgeon.checkpoint.pinning.load", lambda _: own)  # where it is asked before
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: other)
    with pytest.raises(VerificationError, match="AutoTokenizer agrees"):
        transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", TransplantOptions(k=8, forward=False))


def test_layout_names_what_it_does_not_know(deepseek, gpt, tmp_path):
    base = with_next_token_layers(tmp_path / "base", deepseek, gpt)
    found = find_vocabulary_tensors(base, Checkpoint.open(base).tensors)
    assert set(found.unclaimed) == {
        "model.layers.61.embed_tokens.weight",
        "model.layers.61.shared_head.head.weight",
    }
