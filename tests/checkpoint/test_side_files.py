"""What lies beside the weights of an output: nothing of the base's tokenizer, and what its body holds."""

from __future__ import annotations

import json

import pytest

from tokensurgeon import TransplantOptions, transplant
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.side_files import body_length, copy_side_files, fit_body
from tokensurgeon.surgery.resize import resize

STRAYS = (
    "encoder.json", "vocab.bpe", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "tokenizer.model.v3",
    "mistral_instruct_tokenizer_240216.model.v2", "tekken.json", "tekken_240718.json", "qwen.tiktoken", "spiece.model",
    "source.spm", "spiece.vocab", "added_tokens.json", "chat_template.json", "chat_template.jinja",
)  # fmt: skip


def settings_of(directory):
    return json.loads((directory / "tokenizer_config.json").read_text())


def test_nothing_of_the_bases_tokenizer_stays(copy_of, zoo, tmp_path):
    base = copy_of("gpt")
    for name in STRAYS:
        (base / name).write_text("{}")
    (base / "processor_config.json").write_text(json.dumps({"chat_template": "{{ 1 }}", "image_seq_length": 4}))
    (base / "preprocessor_config.json").write_text('{"size":   224}')
    (base / "notes.txt").write_text("mine")
    out = tmp_path / "out"
    transplant(str(base), str(zoo["spm"]), out, TransplantOptions(k=8))
    assert {path.name for path in out.iterdir()} & set(STRAYS) == set()
    assert json.loads((out / "processor_config.json").read_text()) == {"image_seq_length": 4}
    assert (out / "preprocessor_config.json").read_text() == '{"size":   224}'
    assert (out / "notes.txt").read_text() == "mine"


def test_what_is_there_already_stays(tmp_path):
    for name in ("base", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text(name)
    copy_side_files(tmp_path / "base", tmp_path / "out")
    assert (tmp_path / "out/notes.txt").read_text() == "out"


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"model_type": "llama", "max_position_embeddings": 512}, 512),
        ({"model_type": "gpt2", "n_positions": 256, "n_ctx": 128}, 256),
        ({"model_type": "gpt2"}, 1024),  # the architecture's default
        ({"model_type": "mpt", "max_seq_len": 333}, 333),
        ({"model_type": "chatglm", "seq_length": 8192}, 8192),
        ({"model_type": "gemma3", "text_config": {"max_position_embeddings": 99}, "max_position_embeddings": 7}, 99),
        ({"model_type": "bloom"}, None),
        ({"model_type": "martian"}, None),
    ],
)
def test_what_a_body_holds(config, length, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert body_length(tmp_path) == length


@pytest.mark.parametrize("donors", [None, 77, 10**30, 131072])
def test_the_length_of_a_transplanted_tokenizer_is_what_the_body_holds(copy_of, zoo, donors):
    donor = copy_of("spm")
    given = settings_of(donor)
    given.pop("model_max_length", None)
    given |= {} if donors is None else {"model_max_length": donors}
    (donor / "tokenizer_config.json").write_text(json.dumps(given))
    fit_body(donor, zoo["gpt"], TokenizerFiles.open(donor).tokenizer)
    inputs = {"model_input_names": ["input_ids", "attention_mask"]}
    assert settings_of(donor) == given | {"model_max_length": 2048} | inputs


def test_token_types_stay_where_the_body_takes_them(copy_of, zoo):
    donor, body = copy_of("spm"), copy_of("gpt")
    names = ["input_ids", "token_type_ids", "attention_mask"]
    (donor / "tokenizer_config.json").write_text(json.dumps(settings_of(donor) | {"model_input_names": names}))
    config = json.loads((body / "config.json").read_text())
    (body / "config.json").write_text(json.dumps(config | {"type_vocab_size": 2}))
    fit_body(donor, body, TokenizerFiles.open(donor).tokenizer)
    assert settings_of(donor)["model_input_names"] == names
    fit_body(donor, zoo["gpt"], TokenizerFiles.open(donor).tokenizer)
    assert settings_of(donor)["model_input_names"] == ["input_ids", "attention_mask"]


def test_a_transplant_fits_the_length_and_a_resize_leaves_it(zoo, copy_of, tmp_path):
    transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", TransplantOptions(k=8))
    assert settings_of(tmp_path / "out")["model_max_length"] == 2048
    model = copy_of("gpt")
    (model / "tokenizer_config.json").write_text(json.dumps(settings_of(model) | {"model_max_length": 77}))
    resize(str(model), tmp_path / "resized", rows=768)
    assert (tmp_path / "resized/tokenizer_config.json").read_bytes() == (model / "tokenizer_config.json").read_bytes()
