"""Sizes that no honest model has are refused before anything of that size is made."""

from __future__ import annotations

import json

import pytest
import typer
from tokenizers import Tokenizer, pre_tokenizers

from tokensurgeon import InputError, Vocabulary
from tokensurgeon.checkpoint import Checkpoint, limits
from tokensurgeon.checkpoint.header import read_header
from tokensurgeon.checkpoint.layout import parameter_shapes, refuse_missing_body
from tokensurgeon.checkpoint.tokenizer_json import load_tokenizer
from tokensurgeon.cli.common import guarded

LARGEST = {
    "vocab_size": 901_629, "hidden_size": 53_248, "num_hidden_layers": 1000, "num_attention_heads": 128,
    "n_routed_experts": 2048, "max_position_embeddings": 10_485_760, "num_labels": 21_843, "eos_token_id": [128_009],
    "time_step_limit": [0.0, float("inf")], "vision_config": {"depths": [2, 2, 18, 2], "num_heads": [4, 8]},
}  # fmt: skip


def test_the_largest_honest_settings_pass(tmp_path):
    limits.refuse_odd_sizes(tmp_path / "config.json", LARGEST)


@pytest.mark.parametrize(
    ("place", "part"),
    [
        ("num_hidden_layers", {"num_hidden_layers": 10**7}),
        ("vision_config.depths", {"vision_config": {"depths": [2, 10**7]}}),
        ("text_config.num_experts", {"text_config": {"num_experts": 10**6}}),
        ("vocab_size_per_layer_input", {"vocab_size_per_layer_input": 10**9}),
    ],
)
def test_a_number_that_no_model_has_is_named_with_its_place(tmp_path, place, part):
    with pytest.raises(InputError, match=rf"config\.json: {place} is 10+, and no honest model has more than"):
        limits.refuse_odd_sizes(tmp_path / "config.json", part)


def test_settings_that_together_ask_for_too_many_parts(copy_of, monkeypatch):
    monkeypatch.setattr(limits, "_MOST_MODULES", 10)
    with pytest.raises(InputError, match=r"config\.json asks for more than 10 layers"):
        parameter_shapes(copy_of("gpt"))


def test_a_body_that_is_not_there_is_not_made_up(zoo, copy_of):
    files = Checkpoint.open(zoo["gpt"])
    refuse_missing_body(zoo["gpt"], files.tensors)
    model = copy_of("gpt")
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 1 << 40}))
    with pytest.raises(InputError, match=r"config\.json asks for [\d,]+ numbers, and the files hold"):
        refuse_missing_body(model, files.tensors)


@pytest.mark.parametrize("far", [2**24, pytest.param(2**31, marks=pytest.mark.slow)])  # the library looks at every id
def test_a_vocabulary_with_an_id_far_out_is_refused_without_its_file(gpt, far):
    spec = json.loads(gpt.backend_tokenizer.to_str())
    spec["model"]["vocab"][next(reversed(spec["model"]["vocab"]))] = far
    with pytest.raises(InputError, match=f"has id {far}, and no honest vocabulary has 4,194,304 ids"):
        Vocabulary.from_tokenizer(Tokenizer.from_str(json.dumps(spec)))


def test_a_panic_is_one_line_wherever_text_is_cut(gpt, capsys):
    broken = Tokenizer.from_str(gpt.backend_tokenizer.to_str())
    broken.pre_tokenizer = pre_tokenizers.FixedLength(length=0)
    with pytest.raises(typer.Exit) as left, guarded(debug=False, quiet=True):
        broken.encode("text")
    assert left.value.exit_code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: a tokenizer cannot cut this text")


def test_a_header_is_not_read_beyond_the_longest(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((6 << 30).to_bytes(8, "little"))
        file.truncate((6 << 30) + 8)  # sparse: it takes no room
    with pytest.raises(InputError, match="its header would have 6442450944 bytes"):
        read_header(path)


@pytest.mark.parametrize("affix", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_a_model_that_puts_much_around_each_piece_is_refused(gpt, tmp_path, affix):
    spec = json.loads(gpt.backend_tokenizer.to_str())
    spec["model"] = {"type": "BPE", "vocab": {"a": 0}, "merges": [], affix: "x" * 101}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(InputError, match=rf"tokenizer\.json: its {affix} has 101 characters"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_steps_that_cannot_follow_each_other_do_not_multiply(gpt, tmp_path):
    spec = json.loads(gpt.backend_tokenizer.to_str())
    pairs = {"…": "...", "½": "1/2", "¼": "1/4", "\t": "    ", "ﷲ": "الله"}
    steps = [{"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in pairs.items()]
    spec["normalizer"] = {"type": "Sequence", "normalizers": steps}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    assert load_tokenizer(tmp_path / "tokenizer.json").normalizer.normalize_str("½…") == "1/2..."
