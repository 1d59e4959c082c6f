"""The examples in the docstrings of the public verbs, run on tiny models."""

from __future__ import annotations

import doctest
import inspect
import json

import pytest

import tokensurgeon
from tokensurgeon import RowPlan, TransplantOptions
from tokensurgeon.baselines import make_method
from tokensurgeon.progress import Stage

VERBS = [name for name in tokensurgeon.__all__ if name.islower()]


@pytest.fixture(scope="module")
def files(zoo, gpt, spm, tmp_path_factory):
    """What the examples call ``base``, ``donor`` and so on."""
    import torch
    from safetensors.torch import save_file
    from tiny import TEXT, llama, save

    root = tmp_path_factory.mktemp("examples")
    (root / "base").symlink_to(zoo["gpt"])
    save(root / "donor", llama(len(spm), seed=11), spm)
    save(root / "tuned", llama(len(gpt), seed=12), gpt)
    options = tokensurgeon.TransplantOptions(k=8)
    tokensurgeon.transplant(str(root / "base"), str(root / "donor"), root / "transplanted", options)
    for number, adapter in enumerate(("adapter", "adapter2")):
        (root / adapter).mkdir()
        (root / adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        save_file({name: torch.full((2, 32), 1.0 * number)}, root / adapter / "adapter_model.safetensors")
    adapters = [str(root / "adapter"), str(root / "adapter2")]
    tokensurgeon.pack_adapters(adapters, root / "packed.safetensors")
    (root / "text.txt").write_text(TEXT[:30_000], "utf-8")
    (root / "other.txt").write_text(TEXT[30_000:], "utf-8")
    (root / "tokens.txt").write_text(" transplantation\n", "utf-8")
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "tokensurgeon": {"k": 8}}
    recipe["models"] = [{"model": "donor", "parameters": {"weight": 0.5}}]
    (root / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    recipe["models"][0]["parameters"]["weight"] = {"search": [0, 1], "start": 0.5}
    (root / "search.yaml").write_text(json.dumps(recipe))
    return root


@pytest.fixture
def here(files, tmp_path, monkeypatch):
    """A current directory of one's own with these files."""
    for path in files.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKENSURGEON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tokensurgeon.healing.texts._HELD_OUT", 4096)  # which healing scores before and after


def run_example(name, documented, known=()):
    """Run what a docstring shows, in a namespace of its own that may have some names already."""
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(documented), dict(known), name, None, None)
    assert example.examples, f"the docstring of {name} has no example"
    said = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not failed, "".join(said)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", VERBS)
def test_the_example_of_a_verb(name):
    documented = getattr(tokensurgeon, name)
    assert "\nExample:\n" in inspect.getdoc(documented)
    run_example(name, documented)


@pytest.mark.parametrize("shown", [Stage.of, RowPlan, TransplantOptions, make_method])
def test_other_examples(shown):
    run_example(shown.__qualname__, shown, vars(inspect.getmodule(shown)))
