"""Check what TRL demands: training MODEL, and distilling from the target (GKD, DistillationTrainer)."""

from __future__ import annotations

from collections.abc import Iterator

from tokensurgeon.readiness.common import builds, ids_in_range, same_ids, same_size
from tokensurgeon.readiness.model import Candidate, Rule

__all__ = ["rules"]


def rules(model: Candidate, target: Candidate | None) -> Iterator[Rule]:
    """Rules of TRL 1.16 (file names below ``trl``)."""
    yield builds(model, "trainer/sft_trainer.py: AutoModelForCausalLM")
    yield _padding(model)
    yield ids_in_range(model, "torch.nn.functional.embedding: index out of range")
    if target is None:
        return
    yield same_size(model, target, "experimental/gkd/gkd_trainer.py and distillation/distillation_trainer.py, __init__")
    yield same_ids(model, target, "assumed where the sizes are equal: logits are compared id by id")


def _padding(model: Candidate) -> Rule:
    special = model.tokenizer.special_ids()
    found = {name: special[name] for name in ("pad_token", "eos_token") if name in special}
    shown = ", ".join(f"{name} {token_id}" for name, token_id in found.items())
    return Rule(
        "the tokenizer has a pad or eos token", bool(found), shown or "neither is in the vocabulary",
        "set eos_token in tokenizer_config.json to a token that is there, or pass SFTConfig(pad_token=...)",
        "trainer/sft_trainer.py, __init__: the specified pad_token is not found in the vocabulary",
    )  # fmt: skip
