"""Rows that training made: what a merge does with them, and what later outputs and old manifests say of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import forget_accelerate
from safetensors.torch import load_file, save_file
from tiny import llama, save

from tokensurgeon import HealOptions, TransplantOptions, heal, revert, transplant, trim
from tokensurgeon.alignment import Provenance
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.healing import texts
from tokensurgeon.merging import merge
from tokensurgeon.merging.rows import Kind, kinds_of
from tokensurgeon.verification.verify import verify

HEAD = "lm_head.weight"


@pytest.fixture(scope="module")
def models(zoo, tmp_path_factory, gpt):
    """Two of one tokenizer, the first of which was transplanted and healed; the donor has another one."""
    root = tmp_path_factory.mktemp("trained")
    base = zoo["untied"]
    transplant(str(base), str(zoo["spm"]), root / "made", TransplantOptions(k=8))
    forget_accelerate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "_PYTHON_BYTES", 1 << 15)
        patch.setattr(texts, "_HELD_OUT", 4096)
        options = HealOptions(steps=12, batch=2, piece=256, learning_rate=0.02)
        heal(str(root / "made"), str(base), root / "healed", options)
    other = save(root / "other", llama(len(gpt), tied=False, seed=21), gpt)
    twin = Path(shutil.copytree(root / "healed", root / "twin"))
    tensors = load_file(twin / "model.safetensors")
    save_file(tensors | {HEAD: tensors[HEAD] + 0.1}, twin / "model.safetensors", metadata={"format": "pt"})
    return {"base": base, "made": root / "made", "healed": root / "healed", "other": other, "twin": twin}


@pytest.fixture(scope="module")
def trained(models):
    ids = json.loads((models["healed"] / "tokensurgeon.json").read_text())["healed"]["rows"]
    assert len(ids) > 10
    return np.array(ids)


def of(*names):
    return [{"model": f"<{name}>", "parameters": {"weight": 0.5}} for name in names]


def recipe(*names):
    return {"merge_method": "linear", "models": of(*names), "tokensurgeon": {"k": 8}}


def test_a_row_just_made_for_another_model_is_never_mixed_into_a_trained_one(models, trained, write_recipe, tmp_path):
    merge(write_recipe(recipe("other", "healed") | {"tokenizer_source": "<healed>"}), tmp_path / "out")
    healed, out = (load_file(place / "model.safetensors") for place in (models["healed"], tmp_path / "out"))
    assert torch.equal(out[HEAD][trained], healed[HEAD][trained])
    plan = Manifest.read(tmp_path / "out").plan
    assert plan.ids(Provenance.TRAINED).tolist() == trained.tolist()
    told = Manifest.read(tmp_path / "out").content
    assert told["counts"]["trained"] == len(trained) == told["merge"]["models"][1]["rows"]["trained"]


def test_trained_rows_of_both_models_are_merged(models, trained, write_recipe, tmp_path):
    merge(write_recipe(recipe("healed", "twin")), tmp_path / "out")
    places = (models["healed"], models["twin"], tmp_path / "out")
    healed, twin, out = (load_file(place / "model.safetensors")[HEAD] for place in places)
    assert torch.allclose(out[trained], ((healed + twin) / 2)[trained], atol=1e-6)


@pytest.mark.slow
def test_what_is_made_of_a_healed_model_knows_its_trained_rows(models, tmp_path):
    """As a copy of them, and so that verify finds it told truly; what was only made stays so."""
    healed = Manifest.read(models["healed"])
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 20)
    trim(str(models["healed"]), [tmp_path / "text.txt"], tmp_path / "trimmed")
    small = Manifest.read(tmp_path / "trimmed")
    was = healed.nature[small.plan.source]
    assert (was == Provenance.TRAINED).any() and (was == Provenance.RECONSTRUCTED).any()
    assert (small.nature == was).all()
    kinds = kinds_of(small.plan.n_rows, small, None)
    assert set(kinds[was == Provenance.TRAINED]) == {Kind.TRAINED} and (kinds == Kind.MADE).any()
    revert(str(tmp_path / "trimmed"), str(models["healed"]), tmp_path / "back")
    assert (Manifest.read(tmp_path / "back").nature == healed.nature).all()
    for out in ("trimmed", "back"):
        base = models["healed"] if out == "trimmed" else tmp_path / "trimmed"
        checks = verify(tmp_path / out, base, models["healed"] if out == "back" else None)
        assert all(check.ok for check in checks), [c for c in checks if not c.ok]
    path = tmp_path / "trimmed/tokensurgeon.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"inherited": told["inherited"] | {"reconstructed": []}}))
    assert "plan" in {check.name for check in verify(tmp_path / "trimmed", models["healed"]) if not check.ok}
    del told["inherited"]
    path.write_text(json.dumps(told))
    plan = next(check for check in verify(tmp_path / "trimmed", models["healed"]) if check.name == "plan")
    assert plan.ok and plan.note and "does not say which copied rows" in plan.detail


def test_rows_that_an_older_manifest_calls_healed_are_trained_ones(models, trained, tmp_path):
    path = models["healed"] / "tokensurgeon.json"
    before = Manifest.read(models["made"])
    old = before.content | {"healed": json.loads(path.read_text())["healed"]}
    assert not len(before.plan.ids(Provenance.TRAINED))
    Manifest(old, before.plan).write(tmp_path)
    assert Manifest.read(tmp_path).plan.ids(Provenance.TRAINED).tolist() == trained.tolist()


def test_a_healed_model_is_verified_and_its_trained_rows_can_be_trained_again(models, trained):
    checks = verify(models["healed"], models["base"])
    assert all(check.ok for check in checks), [check for check in checks if not check.ok]
    counts = Manifest.read(models["healed"]).content["counts"]
    assert counts["trained"] == len(trained) and sum(counts.values()) == Manifest.read(models["healed"]).plan.n_rows
