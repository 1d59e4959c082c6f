"""config.json and generation_config.json of the output."""

from __future__ import annotations

import json

import pytest

from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.ids import CarriedIds, carry_ids, named_ids
from tokensurgeon.checkpoint.settings import vocab_size, write_settings


@pytest.fixture
def run(copy_of, tmp_path):
    def go(base_changes=None, generation=None, donor_generation=None, new_ids=None, rows=1234, **kwargs):
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
        dropped = write_settings(base, donor, out, files, new_ids or {}, rows, **options)
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


def test_a_token_with_the_row_of_a_stop_stops_too(run):
    """Such as BOS, where it is what ends the base's documents: it is as likely as the stop."""
    _, generation, _, special = run(new_ids={0: [3, special_eos := 2, 4], 9: [77]})
    assert special["eos_token"] == special_eos and generation["eos_token_id"] == [2, 3, 4]


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


IDS = CarriedIds({i: i + 100 for i in range(10)}, None, (50, 500), 480)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"suppress_tokens": [1, 20, 2]}, {"suppress_tokens": [101, 102]}),
        ({"begin_suppress_tokens": [20]}, {}),
        ({"bad_words_ids": [[1, 2], [3, 20], [4]]}, {"bad_words_ids": [[101, 102], [104]]}),
        ({"force_words_ids": [[[1], [2, 3]], [4]]}, {"force_words_ids": [[[101], [102, 103]], [104]]}),
        ({"sequence_bias": [[[1, 2], -5.0], [[20], 3]]}, {"sequence_bias": [[[101, 102], -5.0]]}),
        ({"sequence_bias": {"(1, 2)": -5.0, "(20,)": 3.0}}, {"sequence_bias": {"(101, 102)": -5.0}}),
        ({"forced_decoder_ids": [[1, 2], [2, None], [3, 20]]}, {"forced_decoder_ids": [[1, 102], [2, None]]}),
        ({"forced_bos_token_id": 4, "mask_token_id": 5}, {"forced_bos_token_id": 104, "mask_token_id": 105}),
        ({"lang_to_id": {"<|en|>": 1, "<|de|>": 20}}, {"lang_to_id": {"<|en|>": 101}}),
        ({"eos_token_id": [3, 20, 4]}, {"eos_token_id": [103, 104]}),
        ({"boi_token_index": 20, "eoi_token_index": 1, "y_token_id": -9}, {"eoi_token_index": 101, "y_token_id": -9}),
        ({"visual_indicator_token_ids": [1, 2, 20]}, {}),
        ({"im_start_id": 1, "newline_id": 2, "image_patch_id": 20}, {"im_start_id": 101, "newline_id": 102}),
        ({"decoder": {"a_token_id": 3, "vocab_size": 50}}, {"decoder": {"a_token_id": 103, "vocab_size": 500}}),
        ({"talkers": [{"start_token_id": 3}, {"start_token_id": 20}]}, {"talkers": [{"start_token_id": 103}, {}]}),
        ({"src_vocab_size": 50, "unpadded_vocab_size": 44}, {"src_vocab_size": 500, "unpadded_vocab_size": 480}),
        # neither of these is a token's id
        ({"watermarking_config": {"hashing_key": 7, "context_width": 1}}, None),
        ({"qformer_config": {"vocab_size": 30, "pad_token_id": 20}, "type_vocab_size": 2, "codec_bos_id": 9}, None),
        ({"num_experts_per_tok": 8, "exponential_decay_length_penalty": [7, 1.1], "max_new_tokens": 9}, None),
        ({"id2label": {"0": "A"}, "layer_ids": [1, 2], "use_cls_token": True, "image_token_id": None}, None),
    ],
)  # fmt: skip
def test_ids_of_every_shape_are_carried_over_or_removed(before, after):
    wanted = before if after is None else after
    assert carry_ids(before, IDS, "config.json")[0] == wanted


def test_what_was_removed_is_named_with_its_file_and_place():
    _, lost = carry_ids({"text_config": {"audio_token_id": 20}, "suppress_tokens": [1, 21]}, IDS, "config.json")
    assert lost[0].startswith("config.json: text_config.audio_token_id=20 named base tokens")
    assert lost[1].startswith("config.json: suppress_tokens: 1 of its 2 entries (first: 21) named")


def test_named_ids_are_ids_and_not_positions():
    found = named_ids({"forced_decoder_ids": [[1, 2]], "a": {"image_token_id": 7}, "pad_token_id": 99}, 50)
    assert found == {2: "forced_decoder_ids", 7: "a.image_token_id", 99: "pad_token_id"}


def test_no_stop_token_is_padding_or_out_of_range(run):
    """The donor's files may name ids that no token has, and tokens whose rows take no probability."""
    config, generation, dropped, special = run(
        base_changes={"eos_token_id": [2, 3], "generation_config": {"suppress_tokens": [8]}},
        generation={"eos_token_id": [2, 3], "suppress_tokens": [8, 9]},
        donor_generation={"eos_token_id": [5, 4000, 9000, 7]},
        new_ids={2: [6], 3: [4001], 8: [7], 9: [11]},
        rows=5000,
        padding=[7],
    )
    assert generation["eos_token_id"] == [special["eos_token"], 5, 6]
    assert config["eos_token_id"] == [special["eos_token"], 6]
    assert generation["suppress_tokens"] == [11] and config["generation_config"] == {}
    assert sum("suppress_tokens" in line for line in dropped) == 2
    assert any("eos_token_id=[4000, 9000, 7] of the donor" in line for line in dropped)
