"""Whether models will merge: shapes, ids, angles between what they learnt, and models locked against it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import llama, save
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tokensurgeon import InputError, check_merge, merge
from tokensurgeon.checkpoint import Checkpoint
from tokensurgeon.cli.app import app
from tokensurgeon.readiness.task_vectors import angles, lock_ratio


@pytest.fixture(scope="module")
def models(zoo, tmp_path_factory, gpt, spm):
    """A base, what two steps in other directions make of it, one much longer step, and others."""
    root = tmp_path_factory.mktemp("models")
    base = load_file(zoo["gpt"] / "model.safetensors")
    made = {"base": zoo["gpt"], "spm": save(root / "spm", llama(len(spm) + 22, seed=9), spm)}
    made["apart"] = save(root / "apart", llama(len(gpt), seed=8), gpt)
    steps = {seed: noise_like(base, seed) for seed in (1, 2)}
    changes = {"a": (1, 0.01), "b": (2, 0.02), "long": (2, 0.12), "copy": (1, 0.0), "back": (1, -0.01)}
    for name, (seed, size) in changes.items():
        made[name] = save(root / name, llama(len(gpt), seed=1), gpt)
        tensors = {key: tensor + size * steps[seed][key] for key, tensor in base.items()}
        save_file(tensors, made[name] / "model.safetensors", metadata={"format": "pt"})
    made["locked"] = save(root / "locked", llama(len(gpt), seed=1), gpt)
    save_file(
        locked(load_file(made["a"] / "model.safetensors")), made["locked"] / "model.safetensors", {"format": "pt"}
    )
    return made


def noise_like(tensors, seed):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(tensor.shape, generator=generator) for key, tensor in tensors.items()}


def locked(tensors):
    """Values of every head multiplied by a random matrix, outputs by its inverse: the same function (MergeLock)."""
    generator, found = torch.Generator().manual_seed(7), dict(tensors)
    for name in tensors:
        if "v_proj" not in name:
            continue
        output = name.replace("v_proj", "o_proj")
        values, outputs = tensors[name], tensors[output]
        width = values.shape[0]  # of two heads with the same values
        heads, groups = outputs.shape[1] // width, 1
        mixed = torch.eye(width) + 0.5 * torch.randn(groups, width, width, generator=generator)
        found[name] = (mixed @ values.reshape(groups, width, -1)).reshape(values.shape).contiguous()
        inverse = torch.linalg.inv(mixed)[torch.arange(heads) // (heads // groups)]
        moved = outputs.T.reshape(heads, width, -1)
        found[output] = (inverse.mT @ moved).reshape(outputs.T.shape).T.contiguous()
    return found


def broken(models, *names, base=None):
    rules = check_merge([str(models[name]) for name in names], None if base is None else str(models[base]))
    return {rule.name: rule for rule in rules if not rule.ok}


def test_models_of_one_base_that_learnt_other_things_merge(models):
    assert broken(models, "a", "b", base="base") == {} and broken(models, "a", "b") == {}


def test_angles_and_lengths_by_hand(models):
    files = [Checkpoint.open(models[name]) for name in ("base", "a", "b", "back")]
    names = [name for name, info in files[0].tensors.items() if len(info.shape) > 1]
    found = angles(files, names)
    flat = [torch.cat([file.read(name).flatten().double() for name in names]) for file in files]
    a, b = flat[1] - flat[0], flat[2] - flat[0]
    assert found.length[1:3] == pytest.approx([float(d.norm() / flat[0].norm()) for d in (a, b)], rel=1e-4)
    assert found.changes[1, 2] == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-4)
    assert found.changes[1, 3] == pytest.approx(-1, abs=1e-4) and found.weights[0, 1] > 0.9


@pytest.mark.parametrize(
    ("names", "base", "rule", "told"),
    [
        (("a", "spm"), None, "the same ids", "spm has others than a"),
        (("a", "apart"), None, "one base", "apart and a were not trained from one model"),
        (("a", "apart"), "base", "one base", "apart and base were not"),
        (("a", "long"), "base", "changes of like length", "long drowns out a"),
        (("a", "copy"), "base", "every model differs from the base", "leave out copy"),
        (("a", "back"), "base", "changes neither alike nor against each other", "a and back -1.00"),
        (("b", "locked"), "base", "none is locked", "locked was locked against merging"),
        (("b", "locked"), None, "none is locked", "locked or b was locked"),
    ],
)
def test_what_speaks_against_a_merge_is_a_warning(models, names, base, rule, told):
    every = broken(models, *names, base=base)
    found = every[rule]
    assert every.keys() <= {rule, "one base"} and not found.must
    said = found.detail + found.remedy
    for name, place in models.items():  # messages have names as they were given
        said = said.replace(str(place), name)
    assert told in said


def test_a_locked_model_does_what_it_did_and_its_ratio_is_far_from_a_fine_tunes(models):
    ids = torch.arange(20)[None]
    a, hidden = (AutoModelForCausalLM.from_pretrained(models[name])(ids).logits for name in ("a", "locked"))
    assert torch.allclose(a, hidden, atol=1e-3)
    files = {name: Checkpoint.open(models[name]) for name in ("base", "b", "long", "locked")}
    config = json.loads((models["base"] / "config.json").read_text())
    ratios = {name: lock_ratio(files[name], files["base"], config) for name in ("b", "long", "locked")}
    assert 0.4 < ratios["b"] < 1 and ratios["long"] < 1.5 and ratios["locked"] > 3
    assert lock_ratio(files["base"], files["base"], config) is None


@pytest.mark.parametrize(
    ("other", "rule"), [("spm", "one shape"), ("untied", "one shape"), ("biased", "one architecture")]
)
def test_what_cannot_merge_fails(zoo, other, rule):
    found = {r.name: r for r in check_merge([str(zoo["gpt"]), str(zoo[other])]) if r.must and not r.ok}
    assert rule in found


def test_the_command(models, zoo):
    names = [str(models["a"]), str(models["locked"])]
    warned = CliRunner().invoke(app, ["check", *names, "--for", "merge", "--base", str(models["base"])])
    assert warned.exit_code == 0 and "warn none is locked" in " ".join(warned.stdout.split())
    failed = CliRunner().invoke(app, ["check", names[0], str(zoo["spm"]), "--for", "merge", "--json"])
    assert failed.exit_code == 1
    assert {rule["name"]: rule["ok"] for rule in json.loads(failed.stdout)["rules"]}["one shape"] is False
    for arguments, message in (
        ([names[0], "--for", "merge"], "takes two models at least"),
        ([*names, "--for", "vllm"], "--for vllm takes one model"),
        ([*names, "--for", "merge", "--with", names[0]], "leave out --with"),
    ):
        done = CliRunner().invoke(app, ["check", *arguments])
        assert done.exit_code == 2 and message in " ".join(done.stderr.split())
    with pytest.raises(InputError, match="takes two models at least"):
        check_merge(names[:1])


def test_a_merge_says_what_speaks_against_it(models, tmp_path, caplog):
    recipe = {"merge_method": "task_arithmetic", "base_model": str(models["base"])}
    listed = [{"model": str(models[name]), "parameters": {"weight": 0.5}} for name in ("b", "locked")]
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe | {"models": listed}))
    merge(tmp_path / "recipe.yaml", tmp_path / "out")
    assert "locked was locked against merging" in caplog.text and "one base" not in caplog.text
    assert len(caplog.records) == 1
