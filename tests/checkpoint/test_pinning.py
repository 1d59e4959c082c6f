"""AutoTokenizer heeds the transplanted tokenizer, whatever the model's type."""

from __future__ import annotations

import json
import shutil

import pytest
from tiny import save, steady
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from tokensurgeon import TransplantOptions, transplant
from tokensurgeon.checkpoint.pinning import pin_tokenizer
from tokensurgeon.surgery.revert import revert

TEXT = "def f(x):\n\treturn 'naïve' + 42"


@pytest.fixture
def qwen2(tmp_path, gpt):
    config = Qwen2Config(
        vocab_size=len(gpt), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    return save(tmp_path / "qwen2", steady(Qwen2ForCausalLM(config), 1), gpt)


def test_a_type_that_imposes_its_class(qwen2, zoo, spm, tmp_path):
    report = transplant(str(qwen2), str(zoo["spm"]), tmp_path / "out", TransplantOptions(k=8))
    assert all(check.ok for check in report.checks)
    for trusted in (None, False, True):
        loaded = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=trusted)
        assert loaded(TEXT)["input_ids"] == spm(TEXT)["input_ids"], trusted
        assert loaded.eos_token_id == spm.eos_token_id


def test_the_defect_that_this_is_for(qwen2, zoo, spm, tmp_path):
    """If this fails, transformers heeds the file by itself, and pinning can go."""
    shutil.copytree(qwen2, tmp_path / "plain")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(zoo["spm"] / name, tmp_path / "plain" / name)
    assert AutoTokenizer.from_pretrained(tmp_path / "plain")(TEXT)["input_ids"] != spm(TEXT)["input_ids"]


def test_nothing_is_pinned_without_need(zoo, tmp_path):
    out = shutil.copytree(zoo["spm"], tmp_path / "copy")
    before = (out / "tokenizer_config.json").read_text()
    assert not pin_tokenizer(out, "llama") and not pin_tokenizer(out, "phi3")
    assert (out / "tokenizer_config.json").read_text() == before
    settings = json.loads(before) | {"tokenizer_class": "Qwen2TokenizerFast"}
    (out / "tokenizer_config.json").write_text(json.dumps(settings))
    assert not pin_tokenizer(out, "qwen2")


def test_the_way_back_keeps_nothing_of_it(qwen2, zoo, tmp_path):
    shutil.copyfile(zoo["gpt"] / "tokenizer_config.json", qwen2 / "tokenizer_config.json")
    settings = json.loads((qwen2 / "tokenizer_config.json").read_text()) | {"tokenizer_class": "Qwen2Tokenizer"}
    (qwen2 / "tokenizer_config.json").write_text(json.dumps(settings))
    transplant(str(qwen2), str(zoo["spm"]), tmp_path / "out", TransplantOptions(k=8))
    assert (tmp_path / "out/tokenization_transplanted.py").is_file()
    with pytest.MonkeyPatch.context() as patch:  # this toy's own tokenizer is not cut as Qwen2's are
        patch.setattr("tokensurgeon.verification.tensors.forward_checks", lambda *_: iter(()))
        revert(str(tmp_path / "out"), str(qwen2), tmp_path / "back")
    assert not (tmp_path / "back/tokenization_transplanted.py").exists()
    assert "auto_map" not in json.loads((tmp_path / "back/tokenizer_config.json").read_text())
