"""Fewer tokens: ``tokensurgeon trim`` beside other packages.

    python -m benchmarks.experiments.trimming benchmarks/experiments/trimming.toml [MODEL ...]

Peers live in environments of their own (`make bench-trim`). What a peer says when it cannot do it is kept.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open

from benchmarks.common import models, texts
from benchmarks.common.provenance import provenance
from benchmarks.common.timing import timed
from tokensurgeon.evaluation.loading import LoadedModel, load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.texts import split_bytes

RESULTS = Path(__file__).parents[1] / "results"
_STRANGE = (
    "naïve café — 日本語 🙂 \x7f\u200b",
    "def f(x):\n\treturn {'a': [1, 2, x ** 2]}  # done\n",
    "Ω ж ﬀ \U0001f9ec qzxwv",
)
_EXCERPT = 1500
"""Characters of the text on which logits are compared."""


def main(path: Path, only: Iterable[str] = ()) -> None:
    """Run all models, or some, and put them into the result file."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    directory = texts.required_directory()
    experiment = tomllib.loads(path.read_text())
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{path.stem}.json"
    before = json.loads(target.read_text()) if target.is_file() else {}
    result = before | provenance(path.stem) | {"settings": experiment}
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-trimming-") as work:
        text = Path(work) / "wikitext2.txt"
        text.write_bytes((directory / "wikitext2_valid.txt").read_bytes())
        result.setdefault("trim", {})
        for name in experiment["models"]:
            if not only or name in only:
                result["trim"][name] = trimmed(experiment, getattr(models, name)(), text, Path(work) / name)
    target.write_text(json.dumps(result, indent=1) + "\n")


def trimmed(experiment: dict[str, Any], base: Path, text: Path, work: Path) -> dict[str, Any]:
    """One model: every side's command, and what it wrote."""
    work.mkdir()
    old = load_model(base)
    untouched = {"tokens": len(old.tokenizer)} | _size(base)
    found: dict[str, Any] = {"untouched": untouched, "sides": {}}
    written = {"untouched": old}
    for side, command in experiment["sides"].items():
        out, config = work / side, work / f"{side}.yaml"
        config.write_text(_trimbed_config(base, text, out))
        names = {"model": base, "text": text, "out": out, "config": config}
        try:
            row: dict[str, Any] = timed([part.format(**names) for part in command])
        except RuntimeError as error:
            found["sides"][side] = {"error": _reason(error)}
            print(base.name, side, found["sides"][side], flush=True)
            continue
        new = load_model(out)
        row |= _size(out) | _exactness(old, new, text.read_text("utf-8"))
        if side == "tokensurgeon":
            written[side] = new
        found["sides"][side] = row
        print(base.name, side, found["sides"][side], flush=True)
    for side in ("untouched", "tokensurgeon"):
        of = found["untouched"] if side == "untouched" else found["sides"][side]
        of |= _scores(written[side], experiment)
        of["speed"] = _speed(written[side], text.read_text("utf-8"), experiment["generate"])
        print(base.name, side, of["bits"], of["speed"], flush=True)
    return found


def _reason(error: Exception) -> str:
    """The last line of what a command said, without this machine's paths."""
    return re.sub(r" \(/[^)]*\)", "", str(error).strip().splitlines()[-1]).replace("|", "/")[:120]


def _trimbed_config(base: Path, text: Path, out: Path) -> str:
    """Every token that the text, as one document, uses, and what those are merged from."""
    rows = text.with_suffix(".jsonl")
    rows.write_text(json.dumps({"text": text.read_text("utf-8")}) + "\n")
    return json.dumps(
        {
            "model": str(base), "output_dir": str(out),
            "corpus": {"datasets": [{"path": "json", "data_files": str(rows), "streaming": True}]},
            "selection": {"min_count": 1},
            "verify_model": False,  # two forward passes over 8,192 tokens, for a document as long as this
        }
    )  # fmt: skip


def _size(directory: Path) -> dict[str, Any]:
    parameters, size = 0, 0
    for path in directory.glob("*.safetensors"):
        size += path.stat().st_size
        with safe_open(path, "pt") as file:
            parameters += sum(math.prod(file.get_slice(name).get_shape()) for name in file.offset_keys())
    return {"parameters": parameters, "bytes": size}


def _exactness(old: LoadedModel, new: LoadedModel, text: str) -> dict[str, Any]:
    """Whether the text is cut as before, logits of kept tokens are the same, and any other text comes back."""
    before, after = (loaded.tokenizer.convert_ids_to_tokens(loaded.encode(text)) for loaded in (old, new))
    there = old.tokenizer.get_vocab()
    kept = {piece: i for piece, i in new.tokenizer.get_vocab().items() if piece in there}
    pieces = sorted(kept, key=kept.__getitem__)
    ids = old.encode(text[:_EXCERPT])
    shared = old.tokenizer.convert_ids_to_tokens(ids)
    difference = None
    if all(piece in kept for piece in shared):
        with torch.inference_mode():
            a = old.model(input_ids=torch.tensor([ids])).logits[0][:, [there[p] for p in pieces]].float()
            b = new.model(input_ids=torch.tensor([[kept[p] for p in shared]])).logits[0][:, [kept[p] for p in pieces]]
        difference = float((a - b.float()).abs().max())
    others = [*_STRANGE, *(piece for of in texts.corpora(16_384).values() for piece in of)]
    faults = [t for t in others if _again(new, t) != _again(old, t)]
    return {
        "tokens": len(new.tokenizer),
        "text_encoded_as_before": before == after,
        "tokens_for_the_text": [len(before), len(after)],
        "logits_differ_by": difference,
        "other_texts": len(others),
        "other_texts_changed": len(faults),
    }


def _again(loaded: LoadedModel, text: str) -> str:
    return str(loaded.tokenizer.decode(loaded.encode(text), clean_up_tokenization_spaces=False))


def _scores(loaded: LoadedModel, experiment: dict[str, Any]) -> dict[str, Any]:
    corpora = texts.corpora(experiment["bytes"])
    return {"bits": {name: bits(loaded, corpora[name]) for name in ("wikitext2", "lambada")}}


def bits(loaded: LoadedModel, pieces: list[str]) -> dict[str, float]:
    """Bits and tokens per byte."""
    score = score_text(loaded.model, loaded.encode, loaded.prefix, pieces)
    return {"bits_per_byte": score.bits_per_byte, "tokens_per_byte": score.positions / max(1, score.n_bytes)}


def _speed(loaded: LoadedModel, text: str, n: int) -> dict[str, float]:
    """Tokens per second of scoring 2 kB at a time and of greedy generation, medians of three."""
    pieces = split_bytes(text[:40_000])[:8]
    prompt = torch.tensor([loaded.encode(text[:400])])
    scoring, generation = [], []
    for _ in range(3):
        started = time.perf_counter()
        positions = score_text(loaded.model, loaded.encode, loaded.prefix, pieces).positions
        scoring.append(positions / (time.perf_counter() - started))
        started = time.perf_counter()
        loaded.model.generate(prompt, max_new_tokens=n, min_new_tokens=n, do_sample=False)
        generation.append(n / (time.perf_counter() - started))
    return {"scoring": statistics.median(scoring), "generation": statistics.median(generation)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
