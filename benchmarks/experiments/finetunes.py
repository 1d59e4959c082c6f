"""Short fine-tunes of SmolLM2 on different texts, so that there is something to merge.

    python -m benchmarks.experiments.finetunes

One reads WikiText-2 from byte 400,000 on (what comes before is measured on), one Python's documentation without its
last quarter, and one, where it is asked for, GSM8K's word problems without the first hundred. All weights are trained,
in float32 with products in bfloat16, with a fixed seed; some four minutes each on one core. They are made once and kept
in the cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.common import models, texts
from tokensurgeon.checkpoint.cache import cache_directory, is_kept, kept
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.texts import python_text, split_bytes

SETTINGS = {"steps": 48, "pieces": 4, "bytes": 1024, "learning_rate": 1e-4, "seed": 0, "wikitext2_from": 400_000}
SHORT = SETTINGS | {"steps": 24, "layers": 10, "learning_rate": 2e-4}
"""Only the last layers are trained, in half of the steps: a third of the time and of the memory."""
GSM8K_FROM = 100  # not among the settings, by whose digest older fine-tunes are found
KNOWN = ("wikitext2", "python", "gsm8k")
TEXTS = KNOWN[:2]
"""Of the fine-tunes that an experiment merges where it names none."""

Scores = dict[str, list[dict[str, float]]]
"""Nats and bytes of every piece, by text."""


def finetunes(settings: Mapping[str, float] = SETTINGS, names: Sequence[str] = TEXTS) -> dict[str, Path]:
    """The model directories, by the text that they were trained on."""
    if strange := [name for name in names if name not in KNOWN]:
        raise ValueError(f"there is no fine-tune on {strange[0]!r}; there are {', '.join(KNOWN)}")
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    return {name: _made(name, cache_directory() / f"smollm2-{name}-{digest}", settings) for name in names}


def training_text(name: str) -> str:
    """What a fine-tune reads."""
    if name == "python":
        return "".join(python_text(1 << 20, part) for part in range(3))
    if name == "gsm8k":
        return "\n\n".join("".join(problem) for problem in _word_problems()[GSM8K_FROM:])
    return _wikitext()[SETTINGS["wikitext2_from"] :].decode("utf-8", "ignore")


def held_out(n_bytes: int, names: Sequence[str] = TEXTS) -> dict[str, list[str]]:
    """Pieces of some texts that no fine-tune has read; each word problem is one."""
    return {name: _held_out(name, n_bytes) for name in names}


def score(directory: Path, pieces: dict[str, list[str]]) -> Scores:
    """Score a model on every piece by itself."""
    loaded = load_model(directory)
    found = {}
    for name, of in pieces.items():
        scored = [score_text(loaded.model, loaded.encode, loaded.prefix, [piece]) for piece in of]
        found[name] = [{"nats": s.nats, "bytes": s.n_bytes} for s in scored]
    return found


def _held_out(name: str, n_bytes: int) -> list[str]:
    if name == "gsm8k":
        return [piece for problem in _word_problems(n_bytes)[:GSM8K_FROM] for piece in problem]
    return split_bytes(python_text(n_bytes, 3) if name == "python" else _wikitext()[:n_bytes].decode("utf-8", "ignore"))


def _word_problems(n_bytes: int = 1 << 20) -> list[list[str]]:
    texts.required_directory()
    return texts.documents(n_bytes)["gsm8k"]


def _wikitext() -> bytes:
    return (texts.required_directory() / "wikitext2_valid.txt").read_bytes()


def _made(name: str, out: Path, settings: Mapping[str, float]) -> Path:
    if not is_kept(out):
        base = models.smollm2()
        with kept(out) as work:
            model = _trained(base, split_bytes(training_text(name), int(settings["bytes"])), settings)
            model.save_pretrained(work)
            AutoTokenizer.from_pretrained(base).save_pretrained(work)
    return out


def _trained(base: Path, pieces: list[str], settings: Mapping[str, float]) -> torch.nn.Module:
    loaded = load_model(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    layers = model.model.layers
    for part in (model.model.embed_tokens, *layers[: -int(settings["layers"])]) if "layers" in settings else ():
        part.requires_grad_(False)
    trained, steps = [p for p in model.parameters() if p.requires_grad], int(settings["steps"])
    optimizer = torch.optim.AdamW(trained, lr=settings["learning_rate"], betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min((i + 1) / 5, 1 - i / steps))
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(int(settings["seed"]))).tolist()
    batch = int(settings["pieces"])
    for step in range(steps):
        some = [pieces[order[(step * batch + i) % len(order)]] for i in range(batch)]
        rows = [torch.tensor([loaded.prefix, *loaded.encode(piece)]) for piece in some]
        loss, n = 0.0, sum(len(row) - 1 for row in rows)
        for row in rows:  # one at a time: logits are large
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(input_ids=row[None], use_cache=False).logits[0, :-1]
            part = cross_entropy(logits.float(), row[1:], reduction="sum") / n
            part.backward()
            loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        print(f"step {step + 1} of {steps}: {loss:.3f} nats per token", flush=True)
    return model.eval()


if __name__ == "__main__":
    for text, directory in finetunes().items():
        print(text, directory)
