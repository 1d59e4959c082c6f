"""Sabotage: break a written model in one place, and the verifier must say so."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokensurgeon import InputError, RowPlan, TransplantOptions, transplant
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.verification.tensors import invariants

EMBEDDING = "model.embed_tokens.weight"


def failures(model, zoo):
    return {check.name for check in invariants(model, zoo["gpt"], zoo["spm"]) if not check.ok}


def change_tensor(model, name, edit):
    tensors = load_file(model / "model.safetensors")
    tensors[name] = edit(tensors[name].clone())
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def change_json(model, name, **changes):
    content = json.loads((model / name).read_text())
    (model / name).write_text(json.dumps({**content, **changes}))


def test_the_good_one_passes(model, zoo):
    checks = invariants(model, zoo["gpt"], zoo["spm"])
    assert all(check.ok for check in checks) and len(checks) >= 12


def test_an_anchor_row_off_by_one_bit(model, zoo):
    row = int(Manifest.read(model).plan.source.argmax())

    def edit(tensor):
        tensor.view(torch.int32)[row, 3] ^= 1
        return tensor

    change_tensor(model, EMBEDDING, edit)
    assert failures(model, zoo) == {f"{EMBEDDING} anchors"}


@pytest.mark.parametrize("kind", ["spm", "untied-spm"])
def test_a_turn_marker_that_is_no_longer_the_mean_of_the_bases(zoo, tmp_path, kind):
    report = transplant(str(zoo[kind]), str(zoo["gpt"]), tmp_path / "out", TransplantOptions(k=8))
    (token_id,) = report.alignment.roles
    name = EMBEDDING if kind == "spm" else "lm_head.weight"
    change_tensor(tmp_path / "out", name, lambda tensor: tensor.index_fill_(0, torch.tensor([token_id]), 0.5))
    checks = invariants(tmp_path / "out", zoo[kind], zoo["gpt"])
    assert [check.name for check in checks if not check.ok] == [f"{name} blends"]


def test_a_new_row_that_is_nan(model, zoo):
    row = int((Manifest.read(model).plan.provenance == 3).argmax())

    def edit(tensor):
        tensor[row, 0] = float("nan")
        return tensor

    change_tensor(model, EMBEDDING, edit)
    assert failures(model, zoo) == {f"{EMBEDDING} finite"}


def test_a_body_tensor_off_by_one_bit(model, zoo):
    def edit(tensor):
        tensor.view(torch.int32)[0] ^= 1
        return tensor

    change_tensor(model, "model.norm.weight", edit)
    assert failures(model, zoo) == {"body unchanged"}


def test_a_missing_tensor(model, zoo):
    tensors = load_file(model / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert "tensor names" in failures(model, zoo)


def test_too_few_rows(model, zoo):
    change_tensor(model, EMBEDDING, lambda t: t[:-3].contiguous())
    assert "shapes" in failures(model, zoo)


def test_a_wrong_vocab_size(model, zoo):
    change_json(model, "config.json", vocab_size=10)
    assert "vocab_size" in failures(model, zoo)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_wrong_eos(model, zoo, file):
    change_json(model, file, eos_token_id=17)
    assert failures(model, zoo) == {"special ids agree"}


def test_the_wrong_tokenizer(model, zoo):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(zoo["gpt"] / name, model / name)
    assert "text round trip" in failures(model, zoo)


def test_two_ids_swapped_in_the_tokenizer(model, zoo):
    content = json.loads((model / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    rare = sorted(vocab, key=vocab.get)[-2:]
    vocab[rare[0]], vocab[rare[1]] = vocab[rare[1]], vocab[rare[0]]
    (model / "tokenizer.json").write_text(json.dumps(content))
    assert "tokenizer unchanged" in {c.name for c in invariants(model, zoo["gpt"]) if not c.ok}


def test_a_stop_token_out_of_range(model, zoo):
    eos = json.loads((model / "generation_config.json").read_text())["eos_token_id"]
    eos = eos if isinstance(eos, list) else [eos]
    change_json(model, "generation_config.json", eos_token_id=[*eos, 999_999])
    assert failures(model, zoo) == {"special ids agree"}


def test_rows_in_another_dtype(model, zoo):
    change_tensor(model, EMBEDDING, lambda t: t.bfloat16())
    assert f"{EMBEDDING} anchors" in failures(model, zoo)


def test_a_leftover_head(model, zoo):
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"] = tensors[EMBEDDING].clone()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert "no stale head" in failures(model, zoo)


def test_a_token_in_use_that_is_marked_dead(model, zoo):
    manifest = Manifest.read(model)
    (token,) = TokenizerFiles.open(model).vocabulary().encode(" the")
    provenance, source = manifest.plan.provenance.copy(), manifest.plan.source.copy()
    provenance[token], source[token] = 4, -1
    Manifest(manifest.content, RowPlan(provenance, source)).write(model)
    assert "dead ids are never emitted" in failures(model, zoo)


def test_ids_beyond_the_rows(model, zoo):
    content = json.loads((model / "tokenizer.json").read_text())
    rows = len(Manifest.read(model).plan.provenance)
    last = content["added_tokens"][-1]
    content["added_tokens"] += [{**last, "id": i, "content": f"<far {i}>"} for i in range(rows - 22, rows + 5)]
    (model / "tokenizer.json").write_text(json.dumps(content))
    assert "ids in range" in failures(model, zoo)


def test_dead_rows_that_shout(model, zoo):
    dead = Manifest.read(model).plan.silenced

    def edit(tensor):
        tensor[dead] = 2 * tensor[Manifest.read(model).plan.source >= 0].mean(dim=0)
        return tensor

    change_tensor(model, EMBEDDING, edit)
    assert failures(model, zoo) == {"dead ids"}


def test_a_config_that_promises_a_head(model, zoo):
    change_json(model, "config.json", tie_word_embeddings=False)
    with pytest.raises(InputError, match="untied, but"):
        failures(model, zoo)


def test_a_tokenizer_class_that_cuts_text_in_its_own_way(model, zoo):
    change_json(model, "tokenizer_config.json", tokenizer_class="BertTokenizer")
    assert "AutoTokenizer agrees" in failures(model, zoo)


def test_a_directory_that_is_not_ours(zoo):
    with pytest.raises(InputError, match=r"no tokensurgeon.json"):
        invariants(zoo["gpt"], zoo["gpt"])


def test_a_base_with_fewer_rows_than_the_manifest_names(model, zoo, copy_of):
    base = copy_of("gpt")
    tensors = load_file(base / "model.safetensors")
    save_file(tensors | {EMBEDDING: tensors[EMBEDDING][:500].clone()}, base / "model.safetensors", {"format": "pt"})
    assert f"{EMBEDDING} anchors" in {check.name for check in invariants(model, base, zoo["spm"]) if not check.ok}
