"""A transplant's texts start with the row that its base's texts start with."""

from __future__ import annotations

import json
import shutil

import pytest
from tiny import CHATML, byte_level, fast, llama, save

from tokensurgeon import TransplantOptions, revert, transplant, trim, verify
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


@pytest.mark.parametrize("said", [1, 10**6])
def test_another_start_is_seen_by_verify(models, tmp_path, said):
    shutil.copytree(models / "out", tmp_path / "out")
    place = tmp_path / "out/tokensurgeon.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"starts_with": said}))
    assert load_model(tmp_path / "out").prefix == 1  # what has no row counts for nothing
    plan = next(c for c in verify(tmp_path / "out", models / "base", models / "donor") if c.name == "plan")
    assert not plan.ok and "texts start otherwise" in plan.detail
