"""fastText vectors of both sides' tokens, and the methods that go by them."""

from __future__ import annotations

import pytest
import torch

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.alignment import Provenance
from tokensurgeon.baselines import fasttext
from tokensurgeon.baselines.fasttext import fasttext_space
from tokensurgeon.evaluation.texts import python_text
from tokensurgeon.surgery.pair import align_models

pytest.importorskip("gensim")
TEXT = python_text(40_000)


@pytest.fixture(autouse=True)
def few_buckets(monkeypatch):
    """By default gensim draws two million vectors for n-grams, which takes longer than to train."""
    monkeypatch.setitem(fasttext._COMMON, "bucket", 20_000)


@pytest.mark.parametrize("kind", ["tokens", "words"])
def test_the_space_knows_tokens_of_both_sides(zoo, kind):
    left, right, aligned, _ = align_models(str(zoo["gpt"]), str(zoo["spm"]))
    plan = aligned.plan
    n = len(left.vocabulary) if kind == "tokens" else 600
    one, two = (
        fasttext_space(kind, [[TEXT]], left.vocabulary, right.vocabulary, plan, base_rows=n, seed=1) for _ in range(2)
    )
    targets = plan.ids(Provenance.RECONSTRUCTED)
    assert len(one.targets) == len(targets) and len(one.sources) == len(one.ids)
    assert torch.equal(one.targets, two.targets) and torch.equal(one.sources, two.sources)
    assert one.sources.any(dim=1).all() and (one.ids < n).all()
    vector = {}
    if kind == "tokens":  # sources are anchors
        assert set(one.ids.tolist()) <= set(plan.source[plan.anchors].tolist())
    else:  # equal texts have equal vectors, whichever side they are on
        for token_id, row in zip(one.ids.tolist(), one.sources, strict=True):
            vector[left.vocabulary.keys[token_id].data.strip()] = row
        shared = [
            (row, vector[text])
            for token_id, row in zip(targets.tolist(), one.targets, strict=True)
            if (text := right.vocabulary.keys[token_id].data.strip()) in vector
        ]
        assert shared and all(torch.equal(a, b) for a, b in shared)
    assert 0.02 < float(one.targets.any(dim=1).float().mean()) < 1


@pytest.mark.parametrize("method", ["focus", "wechsel"])
def test_a_transplant_by_fasttext(zoo, tmp_path, method):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    options = TransplantOptions(method=method, method_options={"space": "fasttext"}, text=(str(text),))
    report = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", options)
    assert report.content["held_out"] and report.content["method"]["space"] == "fasttext"
    assert "text.txt" in report.summary["coverage"]


def test_without_text_or_with_too_little(zoo, tmp_path):
    by = {"method": "focus", "method_options": {"space": "fasttext"}}
    with pytest.raises(InputError, match="Give --text FILE"):
        transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", TransplantOptions(**by))
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    with pytest.raises(InputError, match="the text is too short for fastText vectors"):
        transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", TransplantOptions(**by, text=(str(short),)))
    assert not (tmp_path / "out").exists()


def test_lines_of_a_text_in_parts_are_those_of_the_whole_and_have_an_end(monkeypatch):
    parts = ["one\ntw", "o\n\nth", "ree ", "\n"]
    assert list(fasttext._lines(parts)) == ["one\n", "two\n", "\n", "three \n", ""]
    monkeypatch.setattr(fasttext, "_LONGEST_LINE", 8)
    assert list(fasttext._lines(["one two three", "fourfourfour"])) == ["one two", " threefo", "urfourfo", "ur"]
