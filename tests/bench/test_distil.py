"""The distillation experiment: the loss that it claims, and the rows put back where they were."""

from __future__ import annotations

import pytest
import torch
from tiny import TEXT

from benchmarks.experiments import distil
from tokensurgeon import TransplantOptions, transplant
from tokensurgeon.evaluation.loading import load_model


@pytest.mark.slow
def test_a_student_gets_nearer_to_its_teacher(zoo, tmp_path):
    transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "student", TransplantOptions(k=8))
    teacher, student = load_model(zoo["spm"]), load_model(tmp_path / "student")
    before = student.model.get_input_embeddings().weight.detach().clone()
    batch = torch.tensor([student.encode(TEXT[:400])])
    with torch.no_grad():
        p, q = (loaded.model(input_ids=batch).logits.double().softmax(-1) for loaded in (teacher, student))
        expected = float((p * (p / q).log()).sum(-1).mean())
        assert abs(float(distil._loss(teacher, student.model, batch)) - expected) < 0.05 * expected  # bfloat16
    settings = {
        "seed": 0, "sequence": 64, "lora": 4, "learning_rate": 5e-3, "rows_learning_rate": 0.02, "warmup": 2,
        "minutes": 0.05,
    }  # fmt: skip
    found = distil.distil(teacher, student, TEXT[:20_000], TEXT[20_000:24_000], settings)
    assert found["curve"][-1]["loss"] < 0.9 * found["curve"][0]["loss"] and found["steps"] > 3
    after = student.model.get_input_embeddings().weight
    changed = (before != after).any(dim=1)
    assert after.shape == before.shape and 0 < int(changed.sum()) <= found["rows"]
    assert student.model.get_output_embeddings().weight is after
