"""Check what TRL demands: training MODEL, and distilling from the target (GKD, GOLD, DistillationTrainer)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tokensurgeon.readiness.common import builds, ids_in_range, same_ids, same_size
from tokensurgeon.readiness.model import Candidate, Rule

__all__ = ["rules"]


def rules(model: Candidate, target: Candidate | None) -> Iterator[Rule]:
    """Rules of TRL 1.16 (file names below ``trl``)."""
    yield builds(model, "trainer/sft_trainer.py: AutoModelForCausalLM")
    yield _ends(model)
    yield ids_in_range(model, "torch.nn.functional.embedding: index out of range")
    if target is None:
        return
    yield _padding(model)
    yield _template(model, target)
    gold = _gold(model, target)
    source = "experimental/gkd/gkd_trainer.py and distillation/distillation_trainer.py, __init__"
    size = same_size(model, target, source)
    ids = same_ids(model, target, "assumed where the sizes are equal: logits are compared id by id")
    yield replace(size, remedy=size.remedy if ids.ok else size.remedy + gold)
    yield replace(ids, remedy=ids.remedy + gold)


def _ends(model: Candidate) -> Rule:
    special = model.tokenizer.special_ids()
    found = {name: special[name] for name in ("pad_token", "eos_token") if name in special}
    shown = ", ".join(f"{name} {token_id}" for name, token_id in found.items())
    return Rule(
        "the tokenizer has a pad or eos token", bool(found), shown or "neither is in the vocabulary",
        "set eos_token in tokenizer_config.json to a token that is there, or pass SFTConfig(pad_token=...)",
        "trainer/sft_trainer.py, __init__: the specified pad_token is not found in the vocabulary",
    )  # fmt: skip


def _padding(model: Candidate) -> Rule:
    pad = model.tokenizer.special_ids().get("pad_token")
    return Rule(
        "the tokenizer has a pad token", pad is not None, "none" if pad is None else f"pad_token {pad}",
        "tokenizer.pad_token = tokenizer.eos_token, before it is passed as processing_class",
        "experimental/utils.py, DataCollatorForChatML, which GKD and GOLD make before they look for one",
        must=False,  # DistillationTrainer takes the eos token itself
    )  # fmt: skip


def _template(model: Candidate, target: Candidate) -> Rule:
    own, wanted = model.tokenizer.chat_template is not None, target.tokenizer.chat_template is not None
    return Rule(
        "a chat template where the target has one", own or not wanted, "there is one" if own else "there is none",
        "copy the target's chat_template.jinja, or train on ids: input_ids, completion_mask and an empty prompt",
        "experimental/utils.py, DataCollatorForChatML: apply_chat_template of rows with messages",
        must=False,
    )  # fmt: skip


def _gold(model: Candidate, target: Candidate) -> str:
    """What else can be done where the tokenizers differ: GOLDTrainer compares byte-level ones."""
    both = [side.tokenizer.tokenizer for side in (model, target)]
    if not all("ByteLevel" in repr((tokenizer.pre_tokenizer, tokenizer.decoder)) for tokenizer in both):
        return ". GOLDTrainer does not help: experimental/utils.py, encode_with_byte_offsets, wants both byte-level"
    return ", or train by GOLDTrainer with GOLDConfig(use_uld_loss=True), which compares byte-level tokenizers"
