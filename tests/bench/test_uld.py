"""TRL's ULD and GOLD losses as an arm of comparisons."""

from __future__ import annotations

import pytest
import torch
from processes import forget_accelerate
from tiny import byte_level, fast, llama, save

from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.score import score_text

pytest.importorskip("trl")

from benchmarks.peers.uld import merged, train_uld

TEXTS = [f"The value of the object is {i} and def f(x): return x * {i % 7}\n" for i in range(8)]


@pytest.mark.parametrize("merge", ["observed", "bayesian"])
def test_distributions_merge_as_trl_merges_them(merge):
    from trl.experimental.gold import GOLDConfig
    from trl.experimental.gold.gold_trainer import ULDLoss

    loss = ULDLoss(GOLDConfig(use_cpu=True, use_uld_loss=True, uld_token_merge_strategy=merge))
    draw = torch.Generator().manual_seed(0)
    probs = torch.randn(7, 11, generator=draw).softmax(dim=-1)
    groups, ids = [[0], [1, 2, 3], [4, 5], [6]], [1, 2, 3, 4, 5, 6, 7]
    wanted = loss._merge_probabilities_with_alignment_groups(probs, groups, ids)
    torch.testing.assert_close(merged(probs, groups, ids, merge), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("gold", [False, True])
def test_a_student_learns_from_a_teacher_with_another_tokenizer(zoo, tmp_path, gold):
    forget_accelerate()
    tokenizer = fast(byte_level(300), eos_token="<|endoftext|>")
    teacher = save(tmp_path / "teacher", llama(len(tokenizer), dim=48, seed=9), tokenizer)
    out, before = tmp_path / "out", load_model(zoo["gpt"])
    how = {"lora_rank": 4, "learning_rate": 0.02, "text_weight": 1.0, "gold": gold}
    found = train_uld(zoo["gpt"], teacher, TEXTS, out, steps=12, **how)
    after = load_model(out)
    old, new = (score_text(one.model, one.encode, one.prefix, TEXTS).bits_per_byte for one in (before, after))
    assert new < old - 0.1 and 100 < found["tokens"] < 12 * 80
    assert torch.equal(after.model.get_input_embeddings().weight, before.model.get_input_embeddings().weight)
    assert 0 < found["teacher_seconds"] + found["loss_seconds"] < found["seconds"]
