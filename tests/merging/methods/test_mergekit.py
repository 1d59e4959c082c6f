"""Through mergekit: each method in a YAML recipe, on tiny models, against the method's own function."""

from __future__ import annotations

import processes
import pytest
import torch
from click.testing import CliRunner
from mergekit.scripts.run_yaml import main
from safetensors.torch import load_file, save_file
from tiny import llama, save

from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.merging.methods.consensus import consensus_merge
from tokensurgeon.merging.methods.dam import dam_merge
from tokensurgeon.merging.methods.expert import expert_merge
from tokensurgeon.merging.methods.fisher import fisher_average
from tokensurgeon.merging.methods.fw import fw_merge
from tokensurgeon.merging.methods.metrics import metrics_average
from tokensurgeon.merging.methods.opcm import opcm_merge
from tokensurgeon.merging.methods.optmerge import optmerge_merge
from tokensurgeon.merging.methods.pcb import pcb_merge
from tokensurgeon.merging.methods.register import register
from tokensurgeon.merging.methods.tsvm import tsvm_merge
from tokensurgeon.merging.methods.widen import widen_merge

register()

WEIGHTS = torch.tensor([0.3, 0.7])


@pytest.fixture(scope="module")
def models(tmp_path_factory, gpt):
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "one", "two")):
        save(root / name, llama(len(gpt), seed=seed), gpt)
        tensors = load_file(root / name / "model.safetensors")
        generator = torch.Generator().manual_seed(seed)
        save_file(
            {n: torch.rand(t.shape, generator=generator) for n, t in tensors.items()},
            root / f"{name}.fisher.safetensors",
        )
    tensors = load_file(root / "base/model.safetensors")
    generator = torch.Generator().manual_seed(9)
    save_file(
        {n: torch.rand(2, t.shape[-1], generator=generator) for n, t in tensors.items()}, root / "dam.safetensors"
    )
    save_file({n: WEIGHTS.clone() for n in tensors}, root / "weights.safetensors")
    return root


def run(root, recipe, out):
    """mergekit-yaml's own command, with our methods."""
    (root / "recipe.yaml").write_text(recipe.replace("ROOT", str(root)))
    return CliRunner().invoke(main, [str(root / "recipe.yaml"), str(out), "--quiet"])


BASED = "merge_method: {}\nbase_model: ROOT/base\nmodels: [{{model: ROOT/one}}, {{model: ROOT/two}}]\nparameters: {}\n"
FISHER = """
merge_method: fisher
models:
  - {model: ROOT/one, parameters: {fisher: ROOT/one.fisher.safetensors}}
  - {model: ROOT/two, parameters: {fisher: ROOT/two.fisher.safetensors, weight: 2}}
"""
METRICS = """
merge_method: metrics_weighted
models: [{model: ROOT/one, parameters: {metric: 2.5}}, {model: ROOT/two, parameters: {metric: 2.0}}]
parameters: {penalty: 4, lower_is_better: false}
"""
DAM = """
merge_method: dam
models: [{model: ROOT/one}, {model: ROOT/two}]
parameters: {coefficients: ROOT/dam.safetensors}
"""
RECIPES = {
    "fisher": (FISHER, lambda t, f, _n: fisher_average(t[1:], f[1:], [1, 2])),
    "metrics": (METRICS, lambda t, _f, _n: metrics_average(t[1:], [2.5, 2.0], 4, lower_is_better=False)),
    "pcb": (BASED.format("pcb", "{density: 0.3, lambda: 0.7}"), lambda t, _f, _n: pcb_merge(t[0], t[1:], 0.3, 0.7)),
    "consensus": (
        BASED.format("consensus", "{k: 1, threshold: 0.6, lambda: 0.7}"),
        lambda t, _f, _n: consensus_merge(t[0], t[1:], 1, 0.6, 0.7),
    ),
    "widen": (
        BASED.format("widen", "{above_average: 1.2, score: 0.8}"),
        lambda t, _f, n: widen_merge(t[0], t[1:], 1.2, 0.8, rows_are_tokens="embed" in n),
    ),
    "opcm": (BASED.format("opcm", "{alpha: 0.3}"), lambda t, _f, _n: opcm_merge(t[0], t[1:], 0.3)),
    "tsvm": (
        BASED.format("tsvm", "{rank: 0.4, lambda: 0.7, reweight: true, adaptive: true}"),
        lambda t, _f, _n: tsvm_merge(t[0], t[1:], 0.4, 0.7, reweight=True, adaptive=True),
    ),
    "tsvm by default": (BASED.format("tsvm", "{}"), lambda t, _f, _n: tsvm_merge(t[0], t[1:])),
    "optmerge": (
        BASED.format("optmerge", "{rank: 0.6, lambda: 0.7, ridge: 0.1}"),
        lambda t, _f, n: optmerge_merge(t[0], t[1:], 0.6, 0.7, 0.1, rows_are_tokens="embed" in n),
    ),
    "expert": (
        BASED.format("expert", "{coefficients: ROOT/weights.safetensors}"),
        lambda t, _f, _n: expert_merge(t[0], t[1:], WEIGHTS),
    ),
    "fw": (
        DAM.replace("dam", "fw", 1).replace("dam.", "weights."), lambda t, _f, _n: fw_merge(t[1:], WEIGHTS)
    ),
    "dam": (DAM, lambda t, f, _n: dam_merge(t[1:], f[0])),
}  # fmt: skip


@pytest.mark.parametrize("method", RECIPES)
def test_recipes(models, tmp_path, method):
    recipe, by_hand = RECIPES[method]
    done = run(models, recipe, tmp_path / "out")
    assert done.exit_code == 0, done.exception
    merged = load_file(tmp_path / "out/model.safetensors")
    inputs = [load_file(models / name / "model.safetensors") for name in ("base", "one", "two")]
    files = [load_file(models / f"{name}.fisher.safetensors") for name in ("base", "one", "two")]
    files[0] = load_file(models / "dam.safetensors")
    assert merged.keys() == inputs[0].keys()
    for name, tensor in merged.items():
        expected = by_hand([t[name] for t in inputs], [f[name] for f in files], name)
        torch.testing.assert_close(tensor, expected, msg=lambda text, name=name: f"{name}: {text}")
    loaded = load_model(tmp_path / "out")
    ids = torch.tensor([loaded.encode("The value of")])
    assert loaded.model.generate(ids, max_new_tokens=4, do_sample=False).shape[1] > ids.shape[1]


def test_what_is_missing_is_named(models, tmp_path):
    refused = {
        "for input|fisher": FISHER.replace("fisher: ROOT/one.fisher.safetensors", "weight: 1"),
        "cannot be read": FISHER.replace("one.fisher", "none"),
        "coefficients of shape": DAM.replace("models: [", "models: [{model: ROOT/base}, "),
        "base input": BASED.format("opcm", "{}").replace("base_model: ROOT/base\n", ""),
    }
    for message, recipe in refused.items():
        done = run(models, recipe, tmp_path / "out")
        assert done.exit_code and any(part in str(done.exception) for part in message.split("|")), done.exception


def test_the_module_is_their_command(models, tmp_path):
    (tmp_path / "recipe.yaml").write_text(METRICS.replace("ROOT", str(models)))
    arguments = ("tokensurgeon.merging", tmp_path / "recipe.yaml", tmp_path / "out", "--quiet")
    processes.run(processes.MODULE, *arguments).check_returncode()
    assert (tmp_path / "out/model.safetensors").is_file()
