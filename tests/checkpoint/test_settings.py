"""config.json and generation_config.json of the output."""

from __future__ import annotations

import json

import pytest

from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.settings import vocab_size, write_settings


@pytest.fixture
def run(copy_of, tmp_path):
    def go(base_changes=None, generation=None, donor_generation=None, new_ids=None, **kwargs):
        base, donor = copy_of("gpt"), copy_of("spm")
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({**config, **(base_changes or {})}))
        if generation is not None:
            (base / "generation_config.json").write_text(json.dumps(generation))
        if donor_generation is not None:
            (donor / "generation_config.json").write_text(json.dumps(donor_generation))
        files = TokenizerFiles.open(donor)
        out = tmp_path / "out"
        out.mkdir()
        options = {"tied": True, "dtype": None, **kwargs}
        dropped = write_settings(base, donor, out, files, new_ids or {}, 1234, **options)
        read = {n: json.loads((out / f"{n}.json").read_text()) for n in ("config", "generation_config")}
        return read["config"], read["generation_config"], dropped, files.special_ids()

    return go


def test_ids_are_the_donors_and_the_rest_is_the_bases(run):
    config, generation, dropped, special = run(generation={"temperature": 0.6, "eos_token_id": 2})
    assert config["vocab_size"] == 1234 and config["hidden_size"] == 32
    for part in (config, generation):
        assert part["bos_token_id"] == special["bos_token"]
        assert part["pad_token_id"] == special["pad_token"]
    assert config["eos_token_id"] == special["eos_token"]
    assert generation["temperature"] == 0.6 and dropped == []


def test_all_stop_tokens_of_both_are_kept(run):
    _, generation, _, special = run(
        generation={"eos_token_id": [2, 9]},
        donor_generation={"eos_token_id": [special_id := 5, 1]},
        new_ids={2: [special_id], 9: [77, 78]},
    )
    assert generation["eos_token_id"] == [special["eos_token"], 5, 1, 77, 78]


def test_other_ids_are_carried_over_or_removed_with_a_word(run):
    config, _, dropped, _ = run(base_changes={"image_token_index": 9, "audio_token_id": 10}, new_ids={9: [77]})
    assert config["image_token_index"] == 77 and "audio_token_id" not in config
    assert len(dropped) == 1 and "audio_token_id=10" in dropped[0]


def test_composite_configs(run):
    text = {"vocab_size": 7, "bos_token_id": 3, "tie_word_embeddings": True, "dtype": "float32"}
    config, _, _, special = run(base_changes={"text_config": text}, tied=False, dtype="bfloat16")
    assert config["text_config"]["vocab_size"] == 1234
    assert config["text_config"]["bos_token_id"] == special["bos_token"]
    assert config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is False
    assert config["text_config"]["dtype"] == config["dtype"] == "bfloat16"


def test_vocab_size(tmp_path):
    for config, expected in (
        ({"vocab_size": 5}, 5),
        ({"text_config": {"vocab_size": 5}}, 5),
        ({"model_type": "gpt2"}, 50257),  # the architecture's default
        ({"model_type": "martian"}, None),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert vocab_size(tmp_path) == expected


def test_ids_that_the_new_tokenizer_lacks_are_null_not_left_to_the_default(copy_of, tmp_path):
    from transformers import AutoConfig

    donor = copy_of("spm")
    content = json.loads((donor / "tokenizer_config.json").read_text())
    del content["bos_token"]
    (donor / "tokenizer_config.json").write_text(json.dumps(content))
    base = copy_of("gpt")
    write_settings(base, donor, tmp_path, TokenizerFiles.open(donor), {}, 1234, tied=True, dtype=None)
    assert json.loads((tmp_path / "config.json").read_text())["bos_token_id"] is None
    assert AutoConfig.from_pretrained(tmp_path).bos_token_id is None
