"""Models that cannot be right: one line that names the file, before any work, and nothing is left."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tokensurgeon import InputError, export_gguf, resize
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.cli.app import app
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.states import read_states

EMBEDDING = "model.embed_tokens.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"


def settings(**values):
    def damage(model):
        content = json.loads((model / "config.json").read_text())
        content = {name: value for name, value in (content | values).items() if value != "gone"}
        (model / "config.json").write_text(json.dumps(content))

    return damage


def holding(name, data):
    return lambda model: (model / name).write_bytes(data)


def directory(name):
    def damage(model):
        (model / name).unlink()
        (model / name).mkdir()

    return damage


def embedding(change, **values):
    def damage(model):
        tensors = load_file(model / "model.safetensors")
        tensors[EMBEDDING] = change(tensors[EMBEDDING]).contiguous()
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
        settings(**values)(model)

    return damage


def pickled(data):
    def damage(model):
        (model / "model.safetensors").unlink()
        (model / "pytorch_model.bin").write_bytes(data)

    return damage


def with_nan(rows):
    rows[600, 3] = float("nan")
    return rows


SIZE = r"config\.json: vocab_size is {}, and must be a whole number above 0"
BUILT = r"config\.json: transformers cannot build a model of type 'llama' by it \({}"
FAULTS = [
    (settings(vocab_size="700"), SIZE.format("'700'")),
    (settings(vocab_size=-5), SIZE.format("-5")),
    (settings(vocab_size=True), SIZE.format("True")),
    (settings(vocab_size=None), BUILT.format("Field 'vocab_size' expected int, got NoneType")),
    (settings(text_config={"vocab_size": "x"}), r"config\.json: text_config\.vocab_size is 'x'"),
    (settings(text_config=5), r"config\.json: text_config is 5, and must be an object"),
    (settings(tie_word_embeddings="false"), BUILT.format("Field 'tie_word_embeddings' expected bool, got str")),
    (settings(hidden_size="32"), r"config\.json: hidden_size is '32', and must be a whole number above 0"),
    (settings(num_hidden_layers=-1), r"config\.json: num_hidden_layers is -1, and must be"),
    (settings(max_position_embeddings="9"), BUILT.format("Field 'max_position_embeddings' expected int, got str")),
    (settings(num_attention_heads=0), BUILT.format("integer modulo by zero")),
    (settings(eos_token_id="2"), BUILT.format("Field 'eos_token_id' with value '2' is of a wrong type")),
    (settings(pad_token_id=99999), BUILT.format("Padding_idx must be within num_embeddings")),
    (settings(dtype=5), BUILT.format("'int' object has no attribute")),
    (settings(model_type="gone"), r"of type unknown \(config\.json has no model_type\)\. Only architectures"),
    (settings(model_type=["llama"]), r"of type \['llama'\] \(it does not know this type\)\. Only architectures"),
    (settings(model_type="vit"), r"of type 'vit' \(it has no language model of this type\)\. Only architectures"),
    (directory("config.json"), r"config\.json cannot be read \(Is a directory\)"),
    (holding("config.json", POINTER), r"config\.json is a git-LFS pointer.* Run git lfs pull in "),
    (holding("generation_config.json", b"[]"), r"generation_config\.json must hold a JSON object"),
    (holding("model.safetensors", POINTER), r"model\.safetensors is a git-LFS pointer.* Run git lfs pull in "),
    (holding("model.safetensors", b"\2" + b"\0" * 7 + b"[]"), r"\(its header is no JSON object\)\. Fetch it again"),
    (holding("model.safetensors.index.json", b"{}"), r"index\.json is not a valid index: it needs a weight_map"),
    (holding("model.safetensors.index.json", POINTER), r"index\.json is a git-LFS pointer"),
    (pickled(POINTER), r"pytorch_model\.bin is a git-LFS pointer"),
    (pickled(b"junk" * 100), r"pytorch_model\.bin is damaged \(KeyError\)\. Fetch it again"),
    (embedding(lambda rows: rows.T), rf"{EMBEDDING} is \d+ x \d+, looks transposed: a token has a row"),
    (embedding(lambda rows: rows[:500]), rf"{EMBEDDING} is 500 x \d+, and config\.json asks for \d+ x \d+"),
    (settings(vocab_size="gone"), rf"{EMBEDDING} is \d+ x \d+, and config\.json asks for 32000 x"),
    (embedding(lambda rows: rows[:500], vocab_size=500), r"has 500 rows, and the tokenizer \d+ ids: .* id 500\)"),
    (embedding(torch.flatten), rf"copy-of-\w+: {EMBEDDING} has shape"),
    (embedding(torch.zeros_like), r"nothing but zeros for the \d+ tokens that are needed"),
    (embedding(torch.ones_like), r"nothing but one value in each row"),
    (embedding(lambda rows: rows[:1].expand_as(rows)), r"nothing but the same row"),
    (embedding(with_nan), r"rows of the (base|donor)'s embedding .* \(first: (base|donor) id 600\)"),
]


@pytest.mark.parametrize("side", ["base", "donor"])
@pytest.mark.parametrize(("damage", "message"), FAULTS, ids=[message[:50] for _, message in FAULTS])
def test_a_broken_model_is_refused_in_one_line(zoo, copy_of, tmp_path, monkeypatch, side, damage, message):
    monkeypatch.setenv("TOKENSURGEON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tokensurgeon.surgery.transplant.ask_base", None)  # that would be work
    broken = copy_of("gpt" if side == "base" else "spm")
    damage(broken)
    pair = (broken, zoo["spm"]) if side == "base" else (zoo["gpt"], broken)
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*map(str, pair), "--k", "8", "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match=message):
        raise InputError(done.stderr)
    said = [line for line in done.stderr.splitlines() if not line.startswith("converting ")]
    assert done.exit_code == 2 and len(said) == 1 and said[0].startswith("error: ")
    assert not [path for path in tmp_path.iterdir() if path.name not in ("cache", broken.name)]


def test_a_body_that_gives_nan_is_refused_by_name(copy_of):
    model = copy_of("gpt")
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="copy-of-gpt gives NaN or infinity on plain text"):
        read_states(OpenModel.open(str(model)), torch.device("cpu"), None)


def test_a_body_that_gives_nothing_is_refused_by_name(copy_of):
    model = copy_of("gpt")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rms_norm_eps": float("inf")}))
    with pytest.raises(InputError, match="copy-of-gpt: its head sees nothing but zeros on plain text"):
        read_states(OpenModel.open(str(model)), torch.device("cpu"), None)


def test_weights_that_do_not_fit_the_body_are_called_so(copy_of):
    model = copy_of("gpt")
    settings(intermediate_size=48)(model)
    with pytest.raises(InputError, match=r"its weights have other shapes than config\.json asks for"):
        read_states(OpenModel.open(str(model)), torch.device("cpu"), None)


def test_fewer_rows_than_tokens_are_seen_before_text_is_scored(copy_of):
    model = copy_of("gpt")
    embedding(lambda rows: rows[:500], vocab_size=500)(model)
    with pytest.raises(InputError, match="the embedding has 500 rows, and the tokenizer 700 tokens besides added ones"):
        load_model(model)


def test_rows_that_say_nothing_tell_no_quiet_row(copy_of, tmp_path):
    model = copy_of("gpt")
    embedding(torch.zeros_like)(model)
    with pytest.raises(InputError, match="copy-of-gpt: its embedding holds nothing but zeros"):
        resize(str(model), tmp_path / "out", rows=900)


def test_export_names_the_config_that_it_cannot_read(copy_of, tmp_path):
    model = copy_of("gpt")
    settings(num_attention_heads=0)(model)
    with pytest.raises(InputError, match=r"config\.json: transformers cannot read it \(integer modulo by zero\)"):
        export_gguf(str(model), tmp_path / "out.gguf")
