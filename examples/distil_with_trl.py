"""Distil with TRL's GKDTrainer, without anything of ours: what `tokensurgeon` wrote is a model like any other.

    tokensurgeon STUDENT TEACHER --out transplanted
    python examples/distil_with_trl.py transplanted TEACHER text.txt distilled 500

The student writes in half of the updates. Both models need the same ids and as many rows, which
`tokensurgeon check transplanted --for trl --with TEACHER` tells.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.gkd import GKDConfig, GKDTrainer


def main(student: str, teacher: str, text: str, out: str, steps: str) -> None:
    """Train low-rank updates, merge them, and save."""
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # GKDTrainer wants one
    ids = tokenizer(Path(text).read_text("utf-8"), add_special_tokens=False)["input_ids"]
    # 64 tokens to begin with, and 192 for the updates in which the student does not write
    pieces = [ids[i : i + 256] for i in range(0, len(ids), 256) if len(ids) - i > 64]
    rows = [{"prompt": "", "input_ids": p, "completion_mask": [0] * 64 + [1] * (len(p) - 64)} for p in pieces]
    args = GKDConfig(
        output_dir=f"{out}.trl", max_steps=int(steps), per_device_train_batch_size=1, learning_rate=5e-4,
        lmbda=0.5, max_new_tokens=128, gradient_checkpointing=False, save_strategy="no", report_to=[],
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    trainer = GKDTrainer(
        AutoModelForCausalLM.from_pretrained(student),
        AutoModelForCausalLM.from_pretrained(teacher),
        args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    )
    # otherwise what the student wrote is divided by the length of the text that it was not asked about
    trainer.model_accepts_loss_kwargs = False
    trainer.train()
    trainer.model.merge_and_unload().save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
