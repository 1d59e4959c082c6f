"""Logit distillation after a transplant: teacher and student share ids, so a plain loss on logits applies.

    python -m benchmarks.experiments.distil benchmarks/experiments/distil.toml

Plain transformers and peft on a CPU. Both models are cut down in memory to the ids that the text uses, which is the
same cut for both: the loss then costs a tenth, and what is trained goes back to its rows.
"""

from __future__ import annotations

import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model

from benchmarks.common import models, texts
from benchmarks.common.provenance import provenance
from benchmarks.common.timing import timed
from tokensurgeon.checkpoint.cache import cache_directory, is_kept
from tokensurgeon.evaluation.loading import LoadedModel, load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.texts import split_bytes
from tokensurgeon.surgery.auto import replace_vocabulary
from tokensurgeon.transfer.rows import VocabularyMatrices

RESULTS = Path(__file__).parents[1] / "results"
OTHERS = ("lambada", "gsm8k")


def main(path: Path) -> None:
    """Transplant, score, train, score again."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    directory = texts.required_directory()
    settings = tomllib.loads(path.read_text())
    data = (directory / "wikitext2_valid.txt").read_bytes()
    train, held_out = (data[slice(*settings[name])].decode("utf-8", "ignore") for name in ("train", "held_out"))
    measured = {"wikitext2, held out": split_bytes(held_out)}
    measured |= {name: pieces for name, pieces in texts.corpora(settings["bytes"]).items() if name in OTHERS}
    base, donor = (getattr(models, settings[side])() for side in ("student", "teacher"))
    result: dict[str, Any] = provenance(path.stem) | {"settings": settings}
    out = cache_directory() / "distil-student"
    if not is_kept(out):
        command = [".venv/bin/tokensurgeon", str(base), str(donor), "--out", str(out), "--quiet", "--overwrite"]
        timed([*command, *settings["transplant"]])
    teacher, student = load_model(donor), load_model(out)
    result["student with its own tokenizer"] = _bits(load_model(base), measured)
    result["teacher"] = _bits(teacher, measured)
    result["before"] = _bits(student, measured)
    print({name: result[name] for name in ("teacher", "before")}, flush=True)
    result["training"] = distil(teacher, student, train, held_out, settings)
    result["after"] = _bits(student, measured)
    print(result["after"], flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


def distil(
    teacher: LoadedModel, student: LoadedModel, train: str, held_out: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Low-rank updates of the student's body and the rows that the text uses, by the teacher's distributions."""
    torch.manual_seed(settings["seed"])
    ids, check = (torch.tensor(student.encode(text)) for text in (train, held_out))
    used, small = torch.cat([torch.tensor([student.prefix]), ids, check]).unique(return_inverse=True)
    first, ids, check = small[0], small[1 : 1 + len(ids)], small[1 + len(ids) :]
    whole = student.model.get_input_embeddings().weight.detach().clone()
    for loaded in (teacher, student):  # both are tied: one matrix is input embedding and head
        replace_vocabulary(loaded.model, VocabularyMatrices(loaded.model.get_input_embeddings().weight.detach()[used]))
    rows = student.model.get_input_embeddings().weight
    size = float(rows.detach().float().square().mean().sqrt())
    adapted = get_peft_model(student.model, LoraConfig(r=settings["lora"], target_modules="all-linear"))
    rows.requires_grad_(True)
    low_rank = [p for p in adapted.parameters() if p.requires_grad and p is not rows]
    groups = [
        {"params": low_rank, "lr": settings["learning_rate"], "weight_decay": 0.0},
        {"params": [rows], "lr": settings["rows_learning_rate"] * size, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups)
    rates = [group["lr"] for group in groups]
    batches, tests = (_sequences(first, some, settings["sequence"]) for some in (ids, check))
    curve = [{"minutes": 0.0, "tokens": 0, "loss": _held_out_loss(teacher, adapted, tests)}]
    started, tokens, step = time.perf_counter(), 0, 0
    adapted.train()
    for batch in batches[torch.randperm(len(batches))]:
        spent = (time.perf_counter() - started) / 60
        if spent >= settings["minutes"]:
            break
        scale = min(1.0, (step + 1) / settings["warmup"]) * max(0.02, 1 - spent / settings["minutes"])
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * scale
        loss = _loss(teacher, adapted, batch[None])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(low_rank, 1.0)
        optimiser.step()
        step, tokens = step + 1, tokens + batch.numel()
        if step % 20 == 0:
            print(f"step {step}, {spent:.1f} min, loss {float(loss.detach()):.3f}", flush=True)
    minutes = (time.perf_counter() - started) / 60
    adapted.eval()
    curve.append({"minutes": minutes, "tokens": tokens, "loss": _held_out_loss(teacher, adapted, tests)})
    merged = adapted.merge_and_unload()
    whole[used] = merged.get_input_embeddings().weight.detach()
    replace_vocabulary(merged, VocabularyMatrices(whole))
    return {"steps": step, "rows": len(used), "parameters": sum(p.numel() for p in low_rank), "curve": curve}


def _loss(teacher: LoadedModel, student: Any, batch: torch.Tensor) -> torch.Tensor:
    """Mean over positions of the Kullback-Leibler divergence of the student's distribution from the teacher's."""
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            wanted = teacher.model(input_ids=batch).logits
        logits = student(input_ids=batch).logits
    wanted, given = (part.float().log_softmax(dim=-1).flatten(0, 1) for part in (wanted, logits))
    return torch.nn.functional.kl_div(given, wanted, reduction="batchmean", log_target=True)


def _sequences(first: torch.Tensor, ids: torch.Tensor, length: int) -> torch.Tensor:
    """(n, length) int64, each row behind the first id; what does not fill a row is left out."""
    n = len(ids) // (length - 1)
    return torch.cat([first.expand(n, 1), ids[: n * (length - 1)].view(n, -1)], dim=1)


def _held_out_loss(teacher: LoadedModel, student: Any, tests: torch.Tensor) -> float:
    with torch.no_grad():
        return float(torch.stack([_loss(teacher, student, test[None]) for test in tests]).mean())


def _bits(loaded: LoadedModel, measured: dict[str, list[str]]) -> dict[str, float]:
    with torch.autocast("cpu", torch.bfloat16):  # three times as fast here, and the same for all sides
        return {
            name: score_text(loaded.model, loaded.encode, loaded.prefix, pieces).bits_per_byte
            for name, pieces in measured.items()
        }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
