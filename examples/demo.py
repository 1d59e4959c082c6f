"""``make demo``: SmolLM2's tokenizer onto Gemma-3-270M, measured against the untouched model."""

from __future__ import annotations

import logging
import time

import torch
import transformers
from rich.console import Console
from rich.markup import escape

from benchmarks.common.models import LICENCES, gemma, smollm2
from tokensurgeon import transplant
from tokensurgeon.checkpoint.cache import cache_directory
from tokensurgeon.cli.common import progress_bar
from tokensurgeon.cli.tables import print_evaluation, print_transplant
from tokensurgeon.evaluation.evaluate import evaluate
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.texts import open_texts

PROMPTS = (
    "The capital of France is",
    "Water boils when it is heated, because",
    "def add(a, b):\n    return",
)


def main() -> None:
    """Fetch, transplant, evaluate, continue three prompts."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    console = Console(highlight=False)
    started = time.perf_counter()
    for name, licence in LICENCES.items():
        console.print(f"{name}: {licence}")
    base, donor = gemma(), smollm2()
    out = cache_directory() / "demo" / "gemma-3-270m-with-SmolLM2-tokenizer"
    with progress_bar(quiet=False) as tell:
        report = transplant(str(base), str(donor), out, overwrite=True, progress=tell)
    print_transplant(console, report)
    with progress_bar(quiet=False) as tell:
        scores = {
            "Gemma-3-270M": evaluate(str(base), open_texts([], 16_384), progress=tell),
            "with SmolLM2's tokenizer": evaluate(str(out), open_texts([], 16_384), progress=tell),
        }
    print_evaluation(console, scores)
    for prompt in PROMPTS:
        console.print(f"\n[bold]{escape(prompt)}[/bold]")
        for name, directory in (("Gemma-3-270M", base), ("with SmolLM2's tokenizer", out)):
            console.print(f"  [dim]{name}:[/dim] {escape(repr(_continue(str(directory), prompt)))}")
    console.print(f"\nmodel:  {out}\nreport: {out / 'README.md'} (every row: {out / 'tokensurgeon.json'})")
    console.print(f"{time.perf_counter() - started:.0f} s in all")


def _continue(directory: str, prompt: str) -> str:
    from pathlib import Path

    loaded = load_model(Path(directory))
    ids = [loaded.prefix, *loaded.encode(prompt)] if loaded.prefix is not None else loaded.encode(prompt)
    tokens = torch.tensor([ids])
    with torch.inference_mode():
        made = loaded.model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=24, do_sample=False)
    return str(loaded.tokenizer.decode(made[0, tokens.shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
