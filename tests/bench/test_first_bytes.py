"""The distillation experiment: how far beliefs about the next byte are apart."""

from __future__ import annotations

import pytest
import torch

from benchmarks.common.first_bytes import divergence, first_bytes
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.evaluation.loading import load_model

PIECE = "The naïve café: def f(x): return 13"


def test_beliefs_about_the_next_byte_sum_up_those_about_tokens(zoo):
    loaded, vocabulary = load_model(zoo["spm"]), TokenizerFiles.open(zoo["spm"]).vocabulary()
    (found,) = first_bytes(zoo["spm"], loaded, [PIECE])
    ids = loaded.encode(PIECE)
    with torch.no_grad():
        mass = loaded.model(input_ids=torch.tensor([[loaded.prefix, *ids]])).logits[0, 1:].softmax(dim=-1)
    begin_with_t = [i for i, key in enumerate(vocabulary.keys) if key and key.is_text and key.data[:1] == b"t"]
    torch.testing.assert_close(torch.from_numpy(found["beliefs"][:, ord("t")]).exp(), mass[:, begin_with_t].sum(dim=-1))
    assert found["ends"][-1] >= len(PIECE.encode()) and len(found["ends"]) == len(found["beliefs"]) == len(ids)


def test_divergence_is_asked_where_both_have_read_the_same(zoo):
    teacher, student = (first_bytes(zoo[name], load_model(zoo[name]), [PIECE])[0] for name in ("spm", "untied-spm"))
    (other,) = first_bytes(zoo["gpt"], load_model(zoo["gpt"]), [PIECE])
    assert divergence(teacher, teacher) == pytest.approx((0.0, len(teacher["ends"])))
    apart, places = divergence(teacher, student)
    p, q = (torch.from_numpy(side["beliefs"]).double() for side in (teacher, student))
    assert places == len(p) and apart == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)
    assert 0 < divergence(teacher, other)[1] <= len(set(teacher["ends"]) & set(other["ends"]))
