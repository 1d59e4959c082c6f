"""Control tokens that only tokenizer_config.json declares."""

from __future__ import annotations

import json

import pytest
from tiny import byte_level
from transformers import AutoTokenizer

from tokensurgeon import TransplantOptions, transplant
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.declared import completed, without_unknown


def entry(literal, **flags):
    return {"content": literal, "special": True, "normalized": False, **flags}


def test_a_tokenizer_that_has_all_its_control_tokens_is_left_alone():
    tokenizer = byte_level(600)
    declared = {"eos_token": "<|endoftext|>", "added_tokens_decoder": {"0": entry("<|endoftext|>")}, "pad_token": "!"}
    assert completed(tokenizer, declared) is None


@pytest.mark.parametrize("damaged", [[], {"x": 1}, {"5": None}, {"5": {"content": 7}}, {"-1": {"content": "<y>"}}])
def test_entries_that_are_none_are_passed_over(damaged):
    assert completed(byte_level(600), {"added_tokens_decoder": damaged, "eos_token": 3}) is None


def test_tokens_of_the_vocabulary_next_to_it_and_in_reserved_places_are_found_in_text():
    spec = json.loads(byte_level(600, specials=("<a>", "</s>", "[UNUSED_TOKEN_1]")).to_str())
    spec["added_tokens"] = []
    from tokenizers import Tokenizer

    bare = Tokenizer.from_str(json.dumps(spec))
    assert len(bare.encode("</s>").ids) > 1
    decoder = {"2": entry("<|im_start|>"), "600": entry("<new>"), "9000": entry("<far>"), "0": entry("<other>")}
    whole = completed(bare, {"eos_token": "</s>", "added_tokens_decoder": decoder})
    assert whole.encode("</s><|im_start|><new>").ids == [1, 2, 600]
    assert whole.token_to_id("<far>") is None and whole.token_to_id("<other>") is None


def test_what_the_tokenizer_lacks_is_not_declared():
    settings = {
        "bos_token": "<none>", "eos_token": "<|endoftext|>", "model_max_length": 8,
        "additional_special_tokens": ["<none>", "<|endoftext|>"], "extra_special_tokens": {"image": "<none>"},
        "added_tokens_decoder": {"0": entry("<|endoftext|>"), "7": entry("<none>")},
    }  # fmt: skip
    assert without_unknown(settings, byte_level(600)) == {
        "eos_token": "<|endoftext|>", "model_max_length": 8, "additional_special_tokens": ["<|endoftext|>"],
        "extra_special_tokens": {}, "added_tokens_decoder": {"0": entry("<|endoftext|>")},
    }  # fmt: skip


def test_a_transplant_finds_them_in_text_and_gives_no_id_without_a_row(zoo, copy_of, tmp_path):
    donor = copy_of("gpt")
    spec = json.loads((donor / "tokenizer.json").read_text())
    spec["added_tokens"] = []
    (donor / "tokenizer.json").write_text(json.dumps(spec))
    settings = json.loads((donor / "tokenizer_config.json").read_text())
    settings |= {"additional_special_tokens": ["<|nowhere|>"], "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    settings.pop("added_tokens_decoder", None), settings.pop("extra_special_tokens", None)
    (donor / "tokenizer_config.json").write_text(json.dumps(settings))
    report = transplant(str(zoo["spm"]), str(donor), tmp_path / "out", TransplantOptions(k=8))
    rows, text = report.alignment.plan.n_rows, "<|im_start|>a<|im_end|><|nowhere|>"
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = loaded(text, add_special_tokens=False)["input_ids"]
    assert max(ids) < rows and ids == TokenizerFiles.open(tmp_path / "out").tokenizer.encode(text).ids
    assert ids[0] == spec["model"]["vocab"]["<|im_start|>"]
