"""Train a student with a tokenizer of its own by ULD or GOLD, as TRL's GOLDTrainer has them, on plain text.

    python -m benchmarks.peers.uld uld|gold STUDENT TEACHER TEXT OUT STEPS

The text itself is what is read (``lmbda=0``: the student writes nothing). GOLDTrainer wants a prompt with a token at
least, so each text's first token is its prompt, and all others are trained on.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.evaluation.loading import computes_in_bfloat16
from tokensurgeon.evaluation.texts import split_bytes

_WARM_UP = 0.05


def train_uld(
    student: Path,
    teacher: Path,
    texts: list[str],
    out: Path,
    *,
    steps: int,
    seed: int = 0,
    lora_rank: int = 16,
    learning_rate: float = 5e-4,
    text_weight: float = 0.0,
    gold: bool = False,
) -> dict[str, float]:
    """Train low-rank updates of all linear layers, merge them, and write a model in float32.

    What TRL leaves open is as `tokensurgeon distil` has it: AdamW with betas 0.9 and 0.95 and no decay, gradients
    clipped at 1, bfloat16 where the CPU computes in it. Text is read as TRL reads it: without the student's BOS, and
    with EOS behind it, which ``text_weight`` teaches too.

    Args:
        student: Its directory.
        teacher: Its directory; it is loaded in bfloat16.
        texts: Pieces of text, one a step, in an order by the seed, again where steps are more.
        out: Directory for the model; must not exist.
        steps: Updates.
        seed: For the order and the updates' start.
        lora_rank: Of the updates; they are scaled by 2.
        learning_rate: At its highest; it goes up to that in a twentieth of the steps, and down to 0.
        text_weight: Of the text's own next token (``uld_crossentropy_weight``), beside the teacher's 1. TRL has 0; the
            authors of ULD have 1 beside 1.5.
        gold: Compare tokens that both have as such, by what is said of the same token (``bayesian``), and sort the
            others. False sorts all, as ULD does, and merges as TRL does by default (``observed``).

    Returns:
        ``seconds`` and ``cpu_seconds`` of the training, ``teacher_seconds`` and ``loss_seconds`` (its forward pass)
        among the former, ``tokens`` of the student that were read, and the mean ``loss`` of the last tenth.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.gold import GOLDConfig, GOLDTrainer

    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    fast, merge = computes_in_bfloat16(torch.device("cpu")), "bayesian" if gold else "observed"
    with tempfile.TemporaryDirectory() as work:
        trainer = GOLDTrainer(
            model,
            AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.bfloat16),
            GOLDConfig(
                output_dir=work, max_steps=steps, seed=seed, per_device_train_batch_size=1, use_cpu=True, bf16=fast,
                learning_rate=learning_rate, lr_scheduler_type="linear", warmup_steps=max(1, round(steps * _WARM_UP)),
                adam_beta2=0.95, weight_decay=0.0, max_grad_norm=1.0, gradient_checkpointing=False,
                lmbda=0.0, use_uld_loss=True, teacher_tokenizer_name_or_path=str(teacher),
                uld_crossentropy_weight=text_weight, uld_use_hybrid_loss=gold, uld_token_merge_strategy=merge,
                save_strategy="no", report_to=[], logging_steps=1, disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list([_divided(text, tokenizer) for text in texts]),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules="all-linear"),
        )  # fmt: skip
        trainer.uld_loss_fn._merge_probabilities_with_alignment_groups = partial(merged, merge=merge)
        spent = {"teacher": _Timed(trainer.teacher_model, "forward"), "loss": _Timed(trainer, "uld_loss_fn")}
        read = _Counted(trainer.data_collator)
        trainer.data_collator = read
        began, cpu = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    last = losses[-max(1, len(losses) // 10) :]
    trainer.model.merge_and_unload().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {
        "seconds": seconds, "cpu_seconds": cpu_seconds, "teacher_seconds": spent["teacher"].seconds,
        "loss_seconds": spent["loss"].seconds, "tokens": read.tokens, "loss": sum(last) / len(last),
    }  # fmt: skip


def merged(probs: torch.Tensor, groups: list[list[int]], token_ids: list[int], merge: str) -> torch.Tensor:
    """What ULDLoss has for the distribution at each group of tokens, without a copy of all for each group.

    Args:
        probs: (positions, vocabulary).
        groups: Positions that belong together, none of them empty.
        token_ids: What was read at each position.
        merge: ``observed`` or ``bayesian``.
    """
    if not groups:
        return probs
    own = probs[range(len(token_ids)), token_ids].clamp_min(1e-8)
    base, others = (-1, slice(None, -1)) if merge == "bayesian" else (0, slice(1, None))
    factors = torch.stack([own[group[others]].prod() for group in groups])
    return probs[[group[base] for group in groups]] * factors[:, None]


def _divided(text: str, tokenizer: Any) -> dict[str, str]:
    """A text as a prompt, its first token, and the rest."""
    end = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"][0][1]
    return {"prompt": text[:end], "completion": text[end:]}


class _Timed:
    """Put a clock before what an object calls under a name."""

    def __init__(self, owner: Any, name: str) -> None:
        self.seconds, self.called = 0.0, getattr(owner, name)
        setattr(owner, name, self)

    def __call__(self, *given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        found = self.called(*given, **named)
        self.seconds += time.perf_counter() - began
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.called, name)


class _Counted:
    """Count the tokens that a collator gives."""

    def __init__(self, collator: Any) -> None:
        self.collator, self.tokens = collator, 0

    def __call__(self, examples: Any) -> Any:
        batch = self.collator(examples)
        self.tokens += int(batch["attention_mask"].sum())
        return batch


def main(loss: str, student: str, teacher: str, text: str, out: str, steps: str) -> None:
    """Train on a file, and print the numbers as JSON."""
    texts = split_bytes(Path(text).read_text(encoding="utf-8"), 1024)
    found = train_uld(Path(student), Path(teacher), texts, Path(out), steps=int(steps), gold=loss == "gold")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
