"""A transplant's texts start with the row that its base's texts start with."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import pytest
from tiny import CHATML, byte_level, fast, llama, save

from tokensurgeon import InputError, TransplantOptions, merge, revert, transplant, trim, verify
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.start import prefix_by_files

MARKERS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Texts of the base start with <|endoftext|>; the donor calls a turn's opener BOS."""
    root = tmp_path_factory.mktemp("start")
    for name, size, bos in (("base", 600, MARKERS[0]), ("donor", 500, MARKERS[1])):
        tokenizer = fast(byte_level(size, specials=MARKERS), bos_token=bos, eos_token=MARKERS[2])
        tokenizer.chat_template = CHATML
        save(root / name, llama(len(tokenizer), seed=size), tokenizer)
    transplant(str(root / "base"), str(root / "donor"), root / "out", TransplantOptions(k=8))
    return root


def start_of(directory):
    """As transformers has it, and as the files have it."""
    loaded = load_model(directory)
    assert loaded.prefix == prefix_by_files(directory, TokenizerFiles.open(directory))
    return loaded.tokenizer.convert_ids_to_tokens(loaded.prefix)


def test_a_transplant_starts_texts_with_the_row_of_its_base(models):
    content = json.loads((models / "out/tokensurgeon.json").read_text())
    assert content["start"] == "<|endoftext|>" and start_of(models / "donor") == "<|im_start|>"
    assert start_of(models / "base") == start_of(models / "out") == "<|endoftext|>"
    assert "start with the row of `<|endoftext|>`" in (models / "out/README.md").read_text()
    assert all(check.ok for check in verify(models / "out", models / "base", models / "donor"))


def test_where_the_tokenizer_says_so_itself_nothing_is_added(models, tmp_path):
    transplant(str(models / "donor"), str(models / "donor"), tmp_path / "out", TransplantOptions(k=8))
    assert "starts_with" not in json.loads((tmp_path / "out/tokensurgeon.json").read_text())
    assert start_of(tmp_path / "out") == "<|im_start|>"


def test_what_is_cut_out_of_it_starts_alike(models, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The value of the object is 42.\n" * 20)
    trim(str(models / "out"), [text], tmp_path / "less")
    assert start_of(tmp_path / "less") == "<|endoftext|>"
    revert(str(models / "out"), str(models / "base"), tmp_path / "back")
    assert start_of(tmp_path / "back") == "<|endoftext|>"
    assert "starts_with" not in json.loads((tmp_path / "back/tokensurgeon.json").read_text())


@pytest.mark.parametrize(
    ("change", "start"),
    [({"starts_with": 1}, 1), ({"starts_with": 1, "start": "<|im_start|>"}, 1), ({"start": "<|evil|>"}, 1)],
)
def test_another_start_is_seen_by_verify(models, tmp_path, change, start):
    """And an id whose token is another one counts for nothing."""
    out = changed(models, tmp_path, change)
    assert load_model(out).prefix == start
    plan = next(c for c in verify(out, models / "base", models / "donor") if c.name == "plan")
    assert not plan.ok and "texts start otherwise" in plan.detail


def test_a_manifest_that_says_nothing_of_the_start_is_noted(models, tmp_path):
    out = changed(models, tmp_path, {}, without=("starts_with", "start"))
    plan = next(c for c in verify(out, models / "base", models / "donor") if c.name == "plan")
    assert plan.ok and plan.note and "does not say what texts start with" in plan.detail


@pytest.mark.parametrize("said", [-1, -(10**30), 10**6, True, "0"])
def test_a_start_that_is_no_row_is_refused(models, tmp_path, said):
    out = changed(models, tmp_path, {"starts_with": said})
    assert prefix_by_files(out, TokenizerFiles.open(out)) == 1
    with pytest.raises(InputError, match="starts_with"):
        verify(out, models / "base", models / "donor")


def changed(models, place, change, without=()):
    """A copy of the output with another manifest."""
    shutil.copytree(models / "out", place / "out")
    path = place / "out/tokensurgeon.json"
    content = {name: value for name, value in json.loads(path.read_text()).items() if name not in without}
    path.write_text(json.dumps(content | change))
    return place / "out"


@pytest.mark.skipif(find_spec("mergekit") is None, reason="needs mergekit")
def test_a_merge_starts_texts_as_its_first_model_does(models, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    other = tmp_path / "other"
    transplant(str(models / "base"), str(models / "donor"), other, TransplantOptions(method="mean"))
    sides = [{"model": str(model), "parameters": {"weight": 0.5}} for model in (models / "out", other)]
    recipe.write_text(json.dumps({"merge_method": "linear", "models": sides, "dtype": "float32"}))  # JSON is YAML
    merge(recipe, tmp_path / "merged")
    assert start_of(tmp_path / "merged") == "<|endoftext|>"
