"""Merging: models with different tokenizers, every method of mergekit, rows that not all models know."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec, module_from_spec
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny import llama, save
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tokensurgeon import InputError, TransplantOptions, VerificationError, transplant
from tokensurgeon.alignment import Provenance
from tokensurgeon.baselines.linear import Ridge
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.cli.app import app
from tokensurgeon.merging import merge
from tokensurgeon.merging.align import find_owner, place_of
from tokensurgeon.merging.estimate.dam import train_dam
from tokensurgeon.merging.estimate.dam_training import DamOptions
from tokensurgeon.merging.estimate.expert_training import ExpertOptions
from tokensurgeon.merging.estimate.files import write_file
from tokensurgeon.merging.estimate.fisher import estimate_fisher
from tokensurgeon.merging.estimate.loading import ids_of
from tokensurgeon.merging.models import Model, open_model
from tokensurgeon.merging.recipe import read_recipe
from tokensurgeon.merging.rows import MEAN, METHOD, Kind, choose_rows, filled, kinds_of
from tokensurgeon.surgery.revert import revert
from tokensurgeon.verification.verify import verify

WEIGHTS = {"parameters": {"weight": 0.5}}
OPTIONS = {"k": 8}
RECIPES = Path(__file__).parents[2] / "configs/merge"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def models(zoo, tmp_path_factory, gpt, spm):
    """Of one shape: two with one tokenizer, one with another; two with a head of their own."""
    root = tmp_path_factory.mktemp("models")
    return {
        "a": zoo["gpt"],
        "b": save(root / "b", llama(len(gpt), seed=8), gpt),
        "s": save(root / "s", llama(len(spm) + 22, seed=9), spm),
        "untied": zoo["untied"],
        "untied-s": save(root / "untied-s", llama(len(spm), tied=False, seed=10), spm),
        "wide": zoo["spm"],
        "phi": zoo["biased"],
    }


@pytest.fixture
def recipe(write_recipe):
    def write(content, **ours):
        """Names of models stand for their directories."""
        return write_recipe({**content, "tokensurgeon": {**OPTIONS, **ours}})

    return write


def of(*names, **more):
    return [{"model": f"<{name}>", "parameters": {"weight": 0.5, **more}} for name in names]


NEEDS = {
    "slerp": {"models": of("s"), "parameters": {"t": 0.4}},
    "nearswap": {"models": of("s"), "parameters": {"t": 0.01}},
    "arcee_fusion": {"models": of("s")},
    "passthrough": {"base_model": None, "models": [{"model": "<s>"}]},
    "linear": {"base_model": None, "models": of("a", "b", "s")},
    "karcher": {"base_model": None, "models": of("a", "b", "s")},
    "multislerp": {"base_model": None, "models": of("a", "b", "s")},
}
MERGEKIT = [
    "arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della", "della_linear", "karcher",
    "linear", "model_stock", "multislerp", "nearswap", "nuslerp", "passthrough", "ram", "ramplus_tl", "sce", "slerp",
    "task_arithmetic", "ties",
]  # fmt: skip


def test_no_method_of_mergekit_is_left_out():
    """What is tested below is what mergekit's registry holds before anybody adds to it."""
    spec = find_spec("mergekit.merge_methods.registry")
    fresh = module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert sorted(method.spec.name for method in fresh.registered_methods()) == MERGEKIT


OWN = [
    "consensus", "dam", "expert", "fisher", "fw", "metrics_weighted", "opcm", "optmerge", "pcb", "tsvm", "widen",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(models, tmp_path_factory):
    """Made in the ids of `a`, for models with these."""
    root = tmp_path_factory.mktemp("files")
    tensors, told = load_file(models["a"] / "model.safetensors"), {"ids": ids_of(models["a"])}
    write_file(root / "fisher.safetensors", {n: torch.ones_like(t) for n, t in tensors.items()}, told)
    write_file(root / "dam.safetensors", {n: torch.full((2, t.shape[-1]), 0.5) for n, t in tensors.items()}, told)
    write_file(root / "halves.safetensors", {n: torch.full((2,), 0.5) for n in tensors}, told)
    return root


QUICK = {"linear", "slerp", "ties", "model_stock", "passthrough", "dam", "fisher", "widen"}
"""Of every kind one; the others are tried in the slow suite."""


@pytest.mark.parametrize(
    "method", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in (*MERGEKIT, *OWN)]
)
def test_every_method_merges_models_with_different_tokenizers(method, models, recipe, tmp_path, files):
    ours = {
        "dam": {"base_model": None, "parameters": {"coefficients": str(files / "dam.safetensors")}},
        "expert": {"parameters": {"coefficients": str(files / "halves.safetensors")}},
        "fw": {"base_model": None, "parameters": {"coefficients": str(files / "halves.safetensors")}},
        "fisher": {"base_model": None, "models": of("b", "s", fisher=str(files / "fisher.safetensors"))},
        "metrics_weighted": {"base_model": None, "models": of("b", "s", metric=2.0)},
    }
    content = {"merge_method": method, "base_model": "<a>", "models": of("b", "s")}
    content |= {**NEEDS, **ours}.get(method, {})
    content = {name: value for name, value in content.items() if value}
    merge(recipe(content, tokenizer=str(models["a"])), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(models["a"])
    assert tokenizer.get_vocab() == theirs.get_vocab()
    text = "The quick brown fox: def f(x): return 3\n"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids.tolist() == theirs(text, return_tensors="pt")["input_ids"].tolist()
    rows = len(theirs)
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0] == rows
    assert model.config.eos_token_id == theirs.eos_token_id
    made = model.generate(ids, max_new_tokens=5, do_sample=False)
    assert made.shape[1] > ids.shape[1] and int(made.max()) < rows
    assert torch.isfinite(model(ids).logits).all()


def test_linear_is_the_mean_row_by_row(models, recipe, tmp_path):
    """Against numbers from elsewhere: what the transplant wrote, and the mean in numpy."""
    report = merge(recipe({"merge_method": "linear", "models": of("a", "s")}), tmp_path / "out")
    transplant(str(models["s"]), str(models["a"]), tmp_path / "moved", TransplantOptions(k=8))
    a, s, out = (load_file(d / "model.safetensors") for d in (models["a"], tmp_path / "moved", tmp_path / "out"))
    moved = Manifest.read(tmp_path / "moved")
    known = np.isin(np.arange(moved.plan.n_rows), moved.plan.anchors)
    made = np.isin(moved.plan.provenance, (Provenance.RECONSTRUCTED, Provenance.ROLE)) & (moved.plan.source < 0)
    assert 0 < made.sum() < (~known).sum() < len(known)
    mean = (a[EMBEDDING].double() + s[EMBEDDING].double()) / 2
    assert np.allclose(out[EMBEDDING][known], mean[known], atol=1e-6)
    assert torch.equal(out[EMBEDDING][~known], a[EMBEDDING][~known])
    for name in set(a) - {EMBEDDING}:
        assert torch.allclose(out[name].double(), (a[name].double() + s[name].double()) / 2, atol=1e-6), name
    rows = report.content["merge"]["rows"]["embedding"]
    assert rows == {
        "merged": int(known.sum()), "averaged": 0, "named": 0, "differing": int(made.sum()),
        "taken": {models["a"].name: int((~known).sum()), "s": 0},
    }  # fmt: skip
    assert report.content["merge"]["models"][0]["transplant"] is None
    assert report.content["merge"]["models"][1]["transplant"]["reconstructed"] > 0


@pytest.mark.slow
def test_embeddings_base_and_average(models, recipe, tmp_path):
    """The base is the transplanted one, so that its rows are the poor ones; it is not listed, and counts in no mean."""
    content = {"merge_method": "task_arithmetic", "base_model": "<s>", "models": of("a", "b")}
    written = {}
    for choice in ("first", "base", "average"):
        merge(recipe(content, embeddings=choice, tokenizer=str(models["a"])), tmp_path / choice)
        written[choice] = load_file(tmp_path / choice / "model.safetensors")[EMBEDDING]
    transplant(str(models["s"]), str(models["a"]), tmp_path / "moved", TransplantOptions(k=8))
    a, b, s = (load_file(d / "model.safetensors")[EMBEDDING] for d in (models["a"], models["b"], tmp_path / "moved"))
    moved = Manifest.read(tmp_path / "moved")
    made = np.isin(moved.plan.provenance, (Provenance.RECONSTRUCTED, Provenance.ROLE)) & (moved.plan.source < 0)
    unknown = torch.from_numpy(made)
    unused = torch.from_numpy(moved.plan.provenance == Provenance.UNREACHABLE)
    assert torch.equal(written["first"][unknown], a[unknown])
    assert torch.equal(written["base"][unknown], s[unknown])
    assert torch.allclose(written["average"][unknown], ((a + b) / 2)[unknown], atol=1e-6)
    assert unused.any() and all(torch.equal(w[unused], a[unused]) for w in written.values())  # the owner's, always
    assert all(torch.equal(w[~unknown], written["first"][~unknown]) for w in written.values())
    with pytest.raises(InputError, match="embeddings=base takes rows from base_model, and the recipe has none"):
        merge(recipe({"merge_method": "linear", "models": of("a", "s")}, embeddings="base"), tmp_path / "none")


@pytest.mark.slow
def test_a_third_tokenizer_and_silent_rows(models, recipe, tmp_path):
    """Rows that take no probability in any model take none in the merge, whatever the method does to others."""
    content = {"merge_method": "dare_ties", "base_model": "<a>", "models": of("b", density=0.3)}
    report = merge(recipe(content, tokenizer=str(models["s"])), tmp_path / "out")
    rows = report.content["merge"]["rows"]["embedding"]
    assert rows["differing"] == 0 and rows["averaged"] > 40
    assert any("take" in check.detail and check.name == "dead ids" and check.ok for check in report.checks)
    assert [model["transplant"] is None for model in report.content["merge"]["models"]] == [False, False]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(models["s"]).get_vocab()


def test_the_same_tokenizer_with_other_padding(models, recipe, tmp_path, gpt):
    """Rows that only one model has hold no token."""
    padded = save(tmp_path / "padded", llama(len(gpt) + 12, seed=12), gpt)
    content = {"merge_method": "linear", "models": [*of("a"), {"model": str(padded), **WEIGHTS}]}
    report = merge(recipe(content), tmp_path / "out")
    assert report.content["merge"]["models"][1]["transplant"]["reconstructed"] == 0
    a, b, out = (load_file(d / "model.safetensors")[EMBEDDING] for d in (models["a"], padded, tmp_path / "out"))
    canonical = torch.from_numpy(Manifest.read(tmp_path / "out").plan.source < 0)
    assert len(out) == len(gpt) and torch.allclose(out[canonical], ((a + b[: len(gpt)]) / 2)[canonical], atol=1e-6)


def test_one_model_under_two_names_is_refused(recipe, tmp_path, models):
    (tmp_path / models["s"].name).symlink_to(models["s"])
    twin = {"model": str(tmp_path / models["s"].name), **WEIGHTS}
    content = {"merge_method": "linear", "models": [*of("a", "s"), twin]}
    with pytest.raises(InputError, match="have the same content"):
        merge(recipe(content), tmp_path / "out")


def test_an_output_that_is_an_input_is_refused(recipe, copy_of):
    own = copy_of("gpt")
    content = {"merge_method": "linear", "models": [*of("s"), {"model": str(own), **WEIGHTS}]}
    with pytest.raises(InputError, match="would replace"):
        merge(recipe(content), own, overwrite=True)
    content = {"merge_method": "linear", "models": of("a", "s")}
    with pytest.raises(InputError, match="would replace"):
        merge(recipe(content, tokenizer=str(own)), own, overwrite=True)


@pytest.mark.slow
def test_a_head_of_its_own(models, recipe, tmp_path):
    content = {"merge_method": "linear", "models": of("untied", "untied-s")}
    report = merge(recipe(content), tmp_path / "out")
    assert set(report.content["merge"]["rows"]) == {"embedding", "head"}
    one, out = (load_file(d / "model.safetensors") for d in (models["untied"], tmp_path / "out"))
    taken = torch.from_numpy(Manifest.read(tmp_path / "out").plan.source == 0)
    assert taken.any()
    for name in (EMBEDDING, "lm_head.weight"):
        assert torch.equal(one[name][taken], out[name][taken])


def test_slices_and_their_layers(models, recipe, tmp_path):
    slices = [
        {"sources": [{"model": "<a>", "layer_range": [0, 2]}]},
        {"sources": [{"model": "<s>", "layer_range": [1, 2]}]},
        {"sources": [{"model": "<s>", "layer_range": [1, 2]}]},
    ]
    merge(recipe({"merge_method": "passthrough", "slices": slices}), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.num_hidden_layers == 4
    out, s = load_file(tmp_path / "out/model.safetensors"), load_file(models["s"] / "model.safetensors")
    for layer in (2, 3):
        name = "mlp.up_proj.weight"
        assert torch.equal(out[f"model.layers.{layer}.{name}"], s[f"model.layers.1.{name}"])
    slices[0]["sources"][0]["layer_range"] = [0, 3]
    with pytest.raises(InputError, match=r"layer_range \[0, 3\] does not lie within the 2 layers of .*gpt"):
        merge(recipe({"merge_method": "passthrough", "slices": slices}), tmp_path / "more")


@pytest.mark.slow
def test_modules_stand_for_what_is_in_them(recipe, tmp_path):
    content = {"merge_method": "linear", "models": of("a", "s")}
    merge(recipe(content), tmp_path / "plain")
    merge(recipe({"merge_method": "linear", "modules": {"default": {"models": of("a", "s")}}}), tmp_path / "module")
    plain, module = (load_file(tmp_path / d / "model.safetensors") for d in ("plain", "module"))
    assert all(torch.equal(plain[name], module[name]) for name in plain)


@pytest.mark.slow
def test_an_adapter_is_merged_into_its_model_first(models, recipe, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(models["s"])
    torch.manual_seed(0)
    tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "lora")
    content = {"merge_method": "linear", "models": [*of("a"), {"model": f"<s>+{tmp_path / 'lora'}", **WEIGHTS}]}
    merge(recipe(content), tmp_path / "out")
    transplant(str(models["s"]), str(models["a"]), tmp_path / "moved", TransplantOptions(k=8))
    moved = {"model": f"{tmp_path / 'moved'}+{tmp_path / 'lora'}", **WEIGHTS}
    report = merge(recipe({"merge_method": "linear", "models": [*of("a"), moved]}), tmp_path / "again")
    assert report.content["merge"]["models"][1]["rows"]["made"] > 0  # the model's manifest goes with it
    name = "model.layers.1.mlp.up_proj.weight"
    a, out = load_file(models["a"] / "model.safetensors")[name], load_file(tmp_path / "out/model.safetensors")[name]
    theirs = tuned.merge_and_unload().state_dict()[name]
    assert not torch.allclose(theirs, load_file(models["s"] / "model.safetensors")[name], atol=1e-3)
    assert torch.allclose(out, (a + theirs) / 2, atol=1e-5)


@pytest.mark.slow
def test_the_cache_goes_by_content(models, recipe, tmp_path, cache, monkeypatch):
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return transplant(*args, **kwargs)

    monkeypatch.setattr("tokensurgeon.merging.align.transplant", counted)
    content = {"merge_method": "linear", "models": of("a", "s")}
    before = set((cache / "merge").iterdir()) if (cache / "merge").exists() else set()
    merge(recipe(content, k=7), tmp_path / "one")
    assert len(calls) == 1
    merge(recipe(content, k=7), tmp_path / "two")
    assert len(calls) == 1  # the same model, tokenizer and options
    merge(recipe(content, k=6), tmp_path / "three")
    assert len(calls) == 2
    tensors = load_file(models["s"] / "model.safetensors")
    (tmp_path / "s").mkdir()
    for path in models["s"].iterdir():
        (tmp_path / "s" / path.name).write_bytes(path.read_bytes())
    tensors["model.norm.weight"] += 1
    save_file(tensors, tmp_path / "s/model.safetensors", metadata={"format": "pt"})
    changed = {"merge_method": "linear", "models": [*of("a"), {"model": str(tmp_path / "s"), **WEIGHTS}]}
    merge(recipe(changed, k=7), tmp_path / "four")
    assert len(calls) == 3
    made = {path for path in set((cache / "merge").iterdir()) - before if path.is_dir()}
    assert len(made) == 3 and not any(path.name.startswith("gpt") for path in made)  # nothing of the unchanged model


def test_a_default_of_the_method_that_changed_is_another_place_in_the_cache(models, monkeypatch):
    moved, owner = (Model(name, models[name], TokenizerFiles.open(models[name])) for name in ("s", "a"))
    theirs = find_owner(None, [owner])

    def places():
        return [place_of(moved, theirs, TransplantOptions(method=name), "digest") for name in ("ridge", "auto", "omp")]

    before = places()
    assert places() == before
    monkeypatch.setattr(Ridge.__init__, "__defaults__", (None, "none"))
    assert [new == old for new, old in zip(places(), before, strict=True)] == [False, False, True]


@pytest.mark.slow
@pytest.mark.usefixtures("all_read")
def test_the_same_seed_the_same_merge(recipe, tmp_path):
    content = {"merge_method": "dare_linear", "base_model": "<a>", "models": of("s", density=0.5)}
    path = recipe(content)
    for seed in (3, 4):
        merge(path, tmp_path / str(seed), seed=seed)
    code = "print(hash('a'), flush=True)\n" + processes.MAIN
    alone = processes.run(code, "merge", path, "--out", tmp_path / "alone", "--seed", 3, "--quiet")
    assert alone.returncode == 0, alone.stderr
    assert int(alone.stdout.split()[0]) != hash("a")  # it orders sets of strings in another way
    here, other, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("3", "4", "alone"))
    assert all(torch.equal(here[name], alone[name]) for name in here)
    assert not torch.equal(here[EMBEDDING], other[EMBEDDING])


@pytest.mark.slow
def test_a_row_made_before_stays_a_made_one(models, recipe, tmp_path):
    """A model that was transplanted by hand tells of its rows in its manifest, also after a second transplant."""
    transplant(str(models["a"]), str(models["s"]), tmp_path / "a-in-s", TransplantOptions(k=8))
    before = Manifest.read(tmp_path / "a-in-s")
    assert (kinds_of(len(before.plan.provenance), before, None) == Kind.MADE).sum() > 0
    transplant(str(tmp_path / "a-in-s"), str(models["wide"]), tmp_path / "again", TransplantOptions(k=8))
    again = Manifest.read(tmp_path / "again")
    kinds = kinds_of(len(again.plan.provenance), before, again)
    same = again.plan.source == np.arange(len(again.plan.source))  # one tokenizer: every token is copied
    assert same[kinds == Kind.MADE].all()
    assert (kinds == Kind.MADE).sum() == (kinds_of(len(kinds), before, None)[same] == Kind.MADE).sum() > 0
    content = {"merge_method": "linear", "models": [{"model": str(tmp_path / "a-in-s"), **WEIGHTS}, *of("s")]}
    report = merge(recipe(content), tmp_path / "out")
    rows = report.content["merge"]["rows"]["embedding"]
    assert rows["taken"]["s"] == rows["differing"] > 0  # its own rows are better than the first one's made ones


@pytest.mark.slow
def test_the_first_model_comes_before_the_base(models, recipe, tmp_path):
    """A fine-tune with the base's tokenizer keeps its rows of tokens that a third model lacks."""
    content = {"merge_method": "task_arithmetic", "base_model": "<a>", "models": of("b", "s")}
    written = {}
    for choice in ("first", "base", "average"):
        merge(recipe(content, embeddings=choice), tmp_path / choice)
        written[choice] = load_file(tmp_path / choice / "model.safetensors")[EMBEDDING]
    transplant(str(models["s"]), str(models["a"]), tmp_path / "moved", TransplantOptions(k=8))
    made = torch.from_numpy(Manifest.read(tmp_path / "moved").plan.provenance == Provenance.RECONSTRUCTED)
    a, b, s = (load_file(d / "model.safetensors")[EMBEDDING] for d in (models["a"], models["b"], tmp_path / "moved"))
    assert torch.equal(written["first"][made], b[made]) and torch.equal(written["base"][made], a[made])
    assert torch.allclose(written["average"][made], ((b + s) / 2)[made], atol=1e-6)


def test_a_mean_has_no_silent_rows():
    own, _, made, silent = Kind
    kinds = [np.array(k, dtype=np.int8) for k in ([own, own, silent], [silent, made, silent], [silent, silent, own])]
    unlisted = choose_rows(kinds, "average", 2, listed=False)
    rows = filled(torch.zeros(3, 2), [torch.full((3, 2), value) for value in (1.0, 3.0, 5.0)], unlisted)
    assert rows[:, 0].tolist() == [1, 2, 5]  # the first alone; two; the base, since no other can speak
    unused = [None, np.array([True, False, False]), np.array([True, False, False])]
    assert choose_rows(kinds, "average", None, unused=unused).taken.tolist() == [0, MEAN, MEAN]
    assert choose_rows(kinds, "first", None, unused=unused).differing == 2


@pytest.mark.slow
def test_a_file_made_in_other_ids_is_refused(models, recipe, tmp_path, monkeypatch, gpt):
    """Also where both tokenizers have as many rows; the aligned model's own file is taken."""
    rows = len(load_file(models["s"] / "model.safetensors")[EMBEDDING])
    wide = save(tmp_path / "wide", llama(rows, seed=13), gpt)
    (tmp_path / "t.txt").write_text("The value of the function is what it returns. " * 20)
    content = {"merge_method": "fisher", "models": []}
    for model in (wide, models["s"]):
        file = tmp_path / f"{model.name}.safetensors"
        estimate_fisher(str(model), [tmp_path / "t.txt"], file, pieces=1)
        assert len(load_file(file)[EMBEDDING]) == rows
        content["models"].append({"model": str(model), "parameters": {"fisher": str(file)}})
    with monkeypatch.context() as patch:
        patch.setattr("tokensurgeon.merging.align.transplant", lambda *_, **__: pytest.fail("worked"))
        with pytest.raises(InputError, match=r"s\.safetensors was made in other ids than those of .*/s gets"):
            merge(recipe(content, k=5), tmp_path / "out")
    merge(
        recipe(
            {**content, "merge_method": "linear", "parameters": {"weight": 0.5}}
            | {"models": [{"model": one["model"]} for one in content["models"]]},
            k=5,
        ),
        tmp_path / "linear",
    )
    with pytest.raises(InputError, match="which lies in ") as told:
        merge(recipe(content, k=5), tmp_path / "out")
    place = str(told.value).rpartition(" lies in ")[2]
    estimate_fisher(place, [tmp_path / "t.txt"], tmp_path / "s.safetensors", pieces=1, overwrite=True)
    merge(recipe(content, k=5), tmp_path / "out")


@pytest.mark.slow
def test_coefficients_go_by_the_order_of_the_models(models, recipe, tmp_path):
    (tmp_path / "t.txt").write_text("The value of the function is what it returns. " * 20)
    file = tmp_path / "c.safetensors"
    train_dam([str(models[n]) for n in "ab"], [tmp_path / "t.txt"] * 2, file, DamOptions(steps=1))
    content = {"merge_method": "dam", "models": of("a", "b"), "parameters": {"coefficients": str(file)}}
    merge(recipe(content), tmp_path / "out")
    for wrong in (of("b", "a"), of("a", "b", "s"), of("a", "s")):
        with pytest.raises(InputError, match=r"was trained for .*gpt, .*/b, in this order; the recipe|made in other"):
            merge(recipe(content | {"models": wrong}), tmp_path / "wrong")


@pytest.mark.slow
def test_coefficients_beside_a_base_go_by_the_base_too(models, recipe, tmp_path, gpt):
    (tmp_path / "t.txt").write_text("The value of the function is what it returns. " * 20)
    file, texts = tmp_path / "c.safetensors", [tmp_path / "t.txt"] * 2
    third = str(save(tmp_path / "c", llama(len(gpt), seed=12), gpt))
    train_dam([str(models["b"]), third], texts, file, ExpertOptions(steps=1), base=str(models["a"]))
    content = {"merge_method": "expert", "base_model": "<a>", "parameters": {"coefficients": str(file)}}
    b, c = {"model": "<b>"}, {"model": third}
    merge(recipe(content | {"models": [b, c]}), tmp_path / "out")
    for wrong in ({"models": [c, b]}, {"models": [{"model": "<a>"}, c], "base_model": "<b>"}, {"models": [b]}):
        with pytest.raises(InputError, match=r"was trained for .*gpt, .*/b, .*/c, in this order; the recipe"):
            merge(recipe(content | wrong), tmp_path / "wrong")


def test_the_dtype_that_was_written_is_stated(recipe, models, tmp_path):
    half = AutoModelForCausalLM.from_pretrained(models["a"], dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(models["a"]).save_pretrained(tmp_path / "half")
    content = {"merge_method": "linear", "models": [{"model": str(tmp_path / "half"), **WEIGHTS}, *of("b")]}
    merge(recipe(content), tmp_path / "out")
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    assert load_file(tmp_path / "out/model.safetensors")[EMBEDDING].dtype == torch.float32
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float32"


def test_buffers_of_old_checkpoints_are_left_out_and_others_refused(recipe, copy_of, tmp_path):
    old = copy_of("gpt")
    path = old / "model.safetensors"
    tensors = load_file(path)
    content = {"merge_method": "linear", "models": [{"model": str(old), **WEIGHTS}, *of("s")]}
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    save_file({**tensors, name: torch.ones(4)}, path, metadata={"format": "pt"})
    merge(recipe(content), tmp_path / "out")
    assert name not in load_file(tmp_path / "out/model.safetensors")
    content["models"] = content["models"][:1]
    save_file({**tensors, "model.layers.0.odd": torch.ones(4)}, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"has a tensor model\.layers\.0\.odd, which mergekit does not know"):
        merge(recipe(content), tmp_path / "odd")


def test_a_manifest_of_other_rows(models, recipe, tmp_path):
    transplant(str(models["s"]), str(models["a"]), tmp_path / "moved", TransplantOptions(k=8))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "moved")
    model.resize_token_embeddings(model.config.vocab_size + 8)
    model.save_pretrained(tmp_path / "moved")
    content = {"merge_method": "linear", "models": [*of("a"), {"model": str(tmp_path / "moved"), **WEIGHTS}]}
    with pytest.raises(InputError, match=r"moved has \d+ rows, and its tokensurgeon.json tells of \d+"):
        merge(recipe(content), tmp_path / "out")


def test_models_of_one_directory_name(models, recipe, tmp_path):
    twin = tmp_path / "deep" / "b"
    shutil.copytree(models["s"], twin)
    content = {"merge_method": "linear", "models": [*of("b"), {"model": str(twin), **WEIGHTS}]}
    rows = merge(recipe(content), tmp_path / "out").content["merge"]["rows"]["embedding"]
    assert list(rows["taken"]) == [str(models["b"]), str(twin)] and rows["taken"][str(models["b"])] > 0


@pytest.mark.slow
def test_all_licences_and_models_are_named(recipe, copy_of, models, tmp_path):
    places = [copy_of("gpt"), tmp_path / "second", tmp_path / "third"]
    for place, model in zip(places[1:], ("b", "s"), strict=True):
        shutil.copytree(models[model], place)
    for place, text in zip(places, ("one", "two", "one"), strict=True):
        (place / "LICENSE").write_text(text)
    (places[2] / "NOTICE.txt").write_text("three")
    content = {"merge_method": "linear", "models": [{"model": str(place), **WEIGHTS} for place in places]}
    merge(recipe(content), tmp_path / "out")
    found = sorted([*(tmp_path / "out").glob("LICENSE*"), *(tmp_path / "out").glob("NOTICE*")])
    assert sorted(path.read_text() for path in found) == ["one", "three", "two"]
    front = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---")[1])
    assert front["base_model"] == [place.name for place in places]


def test_choosing_rows():
    own, trained, made, silent = Kind
    kinds = [np.array(k, dtype=np.int8) for k in ([own, made, made, silent, silent], [own, own, made, made, silent])]
    first = choose_rows(kinds, "first", 0)
    assert first.taken.tolist() == [METHOD, 1, METHOD, 1, MEAN] and first.differing == 2
    assert first.kinds.tolist() == [own, own, made, made, silent]
    base = choose_rows(kinds, "base", 0)
    assert base.taken.tolist() == [METHOD, 0, METHOD, 0, MEAN]
    assert base.kinds.tolist() == [own, made, made, silent, silent]
    average = choose_rows(kinds, "average", None)
    assert average.taken.tolist() == [METHOD, MEAN, METHOD, MEAN, MEAN]
    tensors = [torch.zeros(5, 3), torch.ones(5, 3)]
    assert filled(torch.full((5, 3), 9.0), tensors, first)[:, 0].tolist() == [9, 1, 9, 1, 0.5]
    alone = choose_rows(kinds[:1], "first", None)
    assert set(alone.taken.tolist()) == {METHOD}
    learnt = [np.array(k, dtype=np.int8) for k in ([own, made, trained, silent], [trained, trained, trained, trained])]
    beside = choose_rows(learnt, "first", None)
    assert beside.taken.tolist() == [METHOD, 1, METHOD, 1] and beside.kinds.tolist() == [trained] * 4


BAD = {
    "an unknown method": ({"merge_method": "average"}, {}, "unknown merge_method 'average'; known are arcee_fusion"),
    "no weights": ({"models": [{"model": "<a>"}, {"model": "<s>"}]}, {}, "linear: Missing required parameter weight"),
    "no base": ({"merge_method": "slerp", "parameters": {"t": 0.5}}, {}, "slerp: Merge method requires a base input"),
    "another architecture": ({"models": of("a", "phi")}, {}, r"biased is a PhiForCausalLM, .*gpt a LlamaForCausalLM"),
    "another shape": ({"models": of("a", "wide")}, {}, r"model\.layers\.0\.\S+ has shape .* in .*spm and .* in .*gpt"),
    "a tied and an untied head": ({"models": of("a", "untied")}, {}, "gpt has its LM head tied .* --untie"),
    "no such model": ({"models": [*of("a"), {"model": "./none"}]}, {}, r"\./none does not exist"),
    "an unknown key": ({"modles": 1}, {}, "modles is unknown to mergekit; known there are modules, slices, models"),
    "a nested unknown key": ({"models": [{"model": "<a>", "wieght": 1}]}, {}, r"models\.0\.wieght is unknown"),
    "an unknown key of ours": ({}, {"embedings": "base"}, "tokensurgeon has an unknown key 'embedings'"),
    "an option that is no transplant's": ({}, {"dtype": "float16"}, "tokensurgeon has an unknown key 'dtype'"),
    "an unknown choice": ({}, {"embeddings": "mean"}, "embeddings='mean' must be one of first, base, average"),
    "a bad option": ({}, {"k": 0}, "k=0 must be a whole number"),
    "a token of no model": ({"tokenizer": {"tokens": {"x": {"source": "<b>"}}}}, {}, "which the recipe does not merge"),
    "a base that is none": ({"tokenizer_source": "base"}, {}, "tokenizer of base_model, and the recipe has none"),
    "two tokenizers": ({"tokenizer_source": "<a>"}, {"tokenizer": "x"}, "names a tokenizer twice"),
    "a template": ({"chat_template": "none"}, {}, "chat_template 'none' is neither a template nor one of auto, alpaca"),
    "a value of ours": (
        {"merge_method": "pcb", "base_model": "<a>", "models": of("s"), "parameters": {"density": 2}}, {},
        "density is 2",
    ),
    "more than there are": (
        {"merge_method": "consensus", "base_model": "<a>", "models": of("s"), "parameters": {"k": 2}}, {},
        "k is 2; it is to how many of the 1 models",
    ),
    "a floor": (
        {"merge_method": "fisher", "models": of("a", "s", fisher="x"), "parameters": {"floor": 0}}, {}, "floor is 0",
    ),
    "no Fisher file": ({"merge_method": "fisher", "models": of("a", "s", fisher="./no.safetensors")}, {}, "no.safeten"),
    "no text": ({}, {"text": "nothere.txt"}, "text file nothere.txt cannot be read"),
    "a base that is not sliced": (
        {
            "merge_method": "passthrough", "base_model": "<a>", "models": None,
            "slices": [{"sources": [{"model": "<s>", "layer_range": [0, 2]}]}],
        },
        {"embeddings": "base"}, "which is no source of the slice",
    ),
    "an override": (
        {"models": [{"model": {"model": "x", "override_architecture": "Y"}, **WEIGHTS}]}, {}, "override_architecture",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_recipes_are_refused_before_any_work(case, recipe, tmp_path, monkeypatch):
    content, ours, message = BAD[case]
    monkeypatch.setattr("tokensurgeon.merging.align.transplant", lambda *_, **__: pytest.fail("worked"))
    content = {"merge_method": "linear", "models": of("a", "s"), **content}
    with pytest.raises(InputError, match=message):
        merge(recipe({name: value for name, value in content.items() if value}, **ours), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_in_configs(path, models, tmp_path):
    text = path.read_text()
    for name, model in (("base", "a"), ("first", "b"), ("second", "s")):
        text = text.replace(f"path/to/{name}", str(models[model]))
    (tmp_path / path.name).write_text(text)
    report = merge(tmp_path / path.name, tmp_path / "out")
    assert len(report.content["merge"]["models"]) >= 2 and "path/to" not in report.content["merge"]["recipe"]


def test_files_that_are_no_recipes(tmp_path):
    for content, message in (("a: [", "not valid YAML"), ("text", "must be a table"), ("tokensurgeon: 3", "must be a")):
        (tmp_path / "r.yaml").write_text(content)
        with pytest.raises(InputError, match=message):
            read_recipe(tmp_path / "r.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")


def test_their_own_key_may_name_the_tokenizer(models, recipe, tmp_path):
    content = {"merge_method": "linear", "models": of("a", "s"), "tokenizer": {"source": "<s>"}}
    merge(recipe(content | {"chat_template": "chatml"}), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(models["s"]).get_vocab()
    assert "im_start" in tokenizer.chat_template
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["eos_token_id"] == tokenizer.eos_token_id and config["vocab_size"] == len(tokenizer) + 22


def test_a_broken_merge_is_discarded(recipe, tmp_path, monkeypatch):
    def broken(merged, tensors, choice):
        return filled(merged, tensors, choice) * float("nan")

    path = recipe({"merge_method": "linear", "models": of("a", "s")})
    monkeypatch.setattr("tokensurgeon.merging.write.filled", broken)
    with pytest.raises(VerificationError, match=r"embed_tokens\.weight finite"):
        merge(path, tmp_path / "out")
    monkeypatch.setattr("tokensurgeon.merging.write.filled", lambda merged, *_: merged)
    with pytest.raises(VerificationError, match="chosen rows"):
        merge(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


def test_chosen_rows_are_compared_byte_by_byte(recipe, models, copy_of, tmp_path, monkeypatch):
    """-0.0 equals 0.0, and is another row."""
    own = copy_of("gpt")
    tensors = load_file(own / "model.safetensors")
    tensors[EMBEDDING][:, 0] = 0.0
    save_file(tensors, own / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setitem(models, "a", own)

    def negated(merged, tensors, choice):
        made = filled(merged, tensors, choice)
        return torch.where(made == 0, -0.0, made)

    path = recipe({"merge_method": "linear", "models": of("a", "s")})
    merge(path, tmp_path / "good")
    monkeypatch.setattr("tokensurgeon.merging.write.filled", negated)
    with pytest.raises(VerificationError, match="chosen rows"):
        merge(path, tmp_path / "out")


def test_a_merge_has_no_single_base(models, recipe, tmp_path):
    merge(recipe({"merge_method": "linear", "models": of("a", "s")}), tmp_path / "out")
    for use in (
        lambda: revert(str(tmp_path / "out"), str(models["a"]), tmp_path / "back"),
        lambda: verify(tmp_path / "out", models["a"]),
    ):
        with pytest.raises(InputError, match="was written by tokensurgeon merge, and has no single base"):
            use()
    with pytest.raises(InputError, match="is no merge, so it is compared with its base"):
        verify(models["a"])
    with pytest.raises(InputError, match="Leave out its donor"):
        verify(tmp_path / "out", donor=models["a"])
    manifest = tmp_path / "out/tokensurgeon.json"
    content = json.loads(manifest.read_text())
    del content["tokenizer_sha256"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match="lacks tokenizer_sha256"):
        verify(tmp_path / "out")


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def add_tensor_to(out):
    tensors = load_file(out / "model.safetensors") | {"model.extra": torch.ones(3)}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def spoil_row_of(out):
    tensors = load_file(out / "model.safetensors")
    tensors[EMBEDDING][3] *= 2
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (str, None),
        (lambda out: edit_json(out / "config.json", rms_norm_eps=0.5), "files as written"),
        (lambda out: (out / "modeling.py").write_text("x = 1"), "nothing added"),
        (spoil_row_of, "tensors as written"),
        (lambda out: edit_json(out / "tokensurgeon.json", tokenizer_sha256="0"), "tokenizer unchanged"),
        (add_tensor_to, "no other tensors"),
    ],
    ids=["honest", "settings", "planted", "row", "manifest", "tensor"],
)
def test_a_merge_is_verified_by_itself(change, failing, recipe, tmp_path):
    out = tmp_path / "out"
    merge(recipe({"merge_method": "linear", "models": of("a", "s")}), out)
    change(out)
    done = CliRunner().invoke(app, ["verify", str(out), "--json"])
    checks = json.loads(done.stdout)
    assert [name for name, check in checks.items() if not check["ok"]] == ([] if failing is None else [failing])
    assert done.exit_code == (0 if failing is None else 2)
    assert "merge its recipe" in checks["made of the models named"]["detail"]


def test_without_mergekit(recipe, tmp_path, monkeypatch):
    path = recipe({"merge_method": "linear", "models": of("a", "s")})
    monkeypatch.setattr("tokensurgeon.merging.mergekit.find_spec", lambda _: None)
    done = CliRunner().invoke(app, ["merge", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert done.stderr.strip() == "error: tokensurgeon merge needs mergekit: pip install 'tokensurgeon[merge]'"


def test_the_command(recipe, tmp_path):
    path = recipe({"merge_method": "linear", "models": of("a", "s")})
    path.write_text(path.read_text() + "# \u202e```\n")
    arguments = ["merge", str(path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "13 stand for tokens" in " ".join(done.stdout.split())
    card, page = ((tmp_path / "out" / name).read_text() for name in ("README.md", "report.html"))
    assert all(line.isprintable() for line in [*card.split("\n"), *page.split("\n")]) and "````yaml" in card
    assert "merge_method: linear" in card and "merge_method: linear" in page and "26 from gpt" in card
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    told = CliRunner().invoke(app, [*arguments, "--overwrite", "--json"])
    assert json.loads(told.stdout)["merge"]["method"] == "linear"


def test_a_tensor_that_no_class_knows_stays_where_no_row_moves(copy_of):
    """It would be in the old order only after a transplant."""
    odd = copy_of("gpt")
    tensors = load_file(odd / "model.safetensors")
    strange = torch.randn(tensors["model.embed_tokens.weight"].shape)
    save_file(tensors | {"model.layers.9.embed_tokens.weight": strange}, odd / "model.safetensors", {"format": "pt"})
    model = Model.open(str(odd)).checked(moved=False)
    assert list(model.layout.unclaimed) == ["model.layers.9.embed_tokens.weight"]
    with pytest.raises(InputError, match="would still be in the old order"):
        model.checked()
    from mergekit.common import ModelReference

    assert open_model(ModelReference.parse(str(odd))).layout.rows == model.layout.rows
