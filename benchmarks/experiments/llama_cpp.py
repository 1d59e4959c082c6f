"""Exported models in a real llama.cpp: the same tokens, the same logits, and its own drafting.

    python -m benchmarks.experiments.llama_cpp benchmarks/experiments/llama_cpp.toml

Drafting is llama-cpp-python's; where LLAMA_SPECULATIVE names llama.cpp's own ``llama-speculative-simple``, that runs
too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
import transformers
from llama_cpp.llama_speculative import LlamaDraftModel

from benchmarks.common import models, texts
from benchmarks.common.provenance import provenance
from benchmarks.common.timing import timed
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.gguf import export_gguf

RESULTS = Path(__file__).parents[1] / "results"
ODD = (
    "",
    " a",
    "  two",
    "\n\n\n x",
    "naïve café — 日本語 🙂\x7f\u200b \t\n\n  ﬀ Ω ж",
    "    indent\n\tdef f(x):",
    "I've we'Ll",
)


def main(path: Path, results: Path = RESULTS) -> None:
    """Run both directions and write the result."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    experiment = tomllib.loads(path.read_text())
    found = {}
    for name, pair in experiment["pairs"].items():
        with tempfile.TemporaryDirectory(prefix="tokensurgeon-gguf-") as work:
            found[name] = {"title": pair["title"]} | run(pair, experiment, Path(work))
            print(name, json.dumps(found[name], indent=1), flush=True)
    result = provenance(path.stem) | {"settings": experiment, "pairs": found}
    result["versions"]["llama-cpp-python"] = version("llama-cpp-python")
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


def run(pair: dict[str, Any], experiment: dict[str, Any], work: Path) -> dict[str, Any]:
    """One direction: transplant, export, compare, draft."""
    base, target = (getattr(models, pair[side])() for side in ("draft", "target"))
    model = work / "model"
    timed([".venv/bin/tokensurgeon", str(base), str(target), "--out", str(model), *experiment["transplant"], "--quiet"])
    export_gguf(str(model), work / "exact.gguf", dtype="f32")
    for name, directory in (("draft", model), ("target", target), ("untouched", base)):
        export_gguf(str(directory), work / f"{name}.gguf", dtype="f16")
    pieces = texts.corpora(experiment["bytes"])
    prompt = next(iter(pieces.values()))[0][:400]
    return (
        same_tokens(model, work / "exact.gguf", [*(p for of in pieces.values() for p in of), *ODD])
        | same_logits(model, work / "exact.gguf", [of[0] for of in pieces.values()])
        | {"drafting": drafting(work, prompt, experiment["new_tokens"], experiment["draft_tokens"])}
        | {"own program": own_program(work, prompt, experiment["new_tokens"], experiment["draft_tokens"])}
    )


def _open(path: Path, **more: Any) -> Any:
    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}  # of the key-value cache
    return llama_cpp.Llama(str(path), n_ctx=1024, n_threads=torch.get_num_threads(), verbose=False, **exact, **more)


def same_tokens(directory: Path, path: Path, pieces: list[str]) -> dict[str, Any]:
    """Pieces of text that both cut alike."""
    tokenizer = TokenizerFiles.open(directory).plain()
    theirs = _open(path, vocab_only=True)
    own = [tokenizer.encode(piece, add_special_tokens=False).ids for piece in pieces]
    cut = [theirs.tokenize(piece.encode(), add_bos=False, special=True) for piece in pieces]
    return {"pieces": len(pieces), "cut_alike": sum(a == b for a, b in zip(own, cut, strict=True))}


def same_logits(directory: Path, path: Path, pieces: list[str]) -> dict[str, Any]:
    """Logits on the beginning of each corpus, beside transformers'."""
    loaded, theirs = load_model(directory), _open(path, logits_all=True)
    divergence, agree, largest, count = 0.0, 0, 0.0, 0
    for piece in pieces:
        ids = [*([loaded.prefix] if loaded.prefix is not None else []), *loaded.encode(piece)][:500]
        with torch.inference_mode():
            wanted = loaded.model(input_ids=torch.tensor([ids])).logits[0].float()
        theirs.reset()
        theirs.eval(ids)
        got = torch.from_numpy(np.array(theirs.scores[: len(ids)]))
        difference = wanted.log_softmax(-1) - got.log_softmax(-1)
        divergence += float((wanted.softmax(-1) * difference).sum())
        agree += int((wanted.argmax(-1) == got.argmax(-1)).sum())
        largest = max(largest, float((wanted - got).abs().max()))
        count += len(ids)
    return {
        "positions": count, "kl_nats": divergence / count, "same_best_token": agree / count,
        "largest_logit_difference": largest,
    }  # fmt: skip


class _Draft(LlamaDraftModel):
    """A second model as llama-cpp-python's draft model, greedy."""

    def __init__(self, path: Path, length: int) -> None:
        self.model, self.length, self.calls, self.drafted = _open(path), length, 0, 0

    def __call__(self, input_ids: Any, /, **_: Any) -> Any:
        found = list(islice(self.model.generate(input_ids.tolist(), temp=0.0), self.length))
        self.calls += 1
        self.drafted += len(found)
        return np.array(found, dtype=np.intc)


def drafting(work: Path, prompt: str, new_tokens: int, length: int) -> dict[str, Any]:
    """llama-cpp-python's speculative decoding, greedy, against the target alone."""
    written = {}
    draft = _Draft(work / "draft.gguf", length)
    for name, helper in (("alone", None), ("drafted", draft)):
        model = _open(work / "target.gguf", draft_model=helper, logits_all=True)
        ids = model.tokenize(prompt.encode(), special=True)
        written[name] = list(islice(model.generate(ids, temp=0.0), new_tokens))
    accepted = new_tokens - draft.calls - 1
    return {
        "acceptance": accepted / draft.drafted, "accepted_length": accepted / (draft.calls + 1),
        "same_text": written["alone"] == written["drafted"],
    }  # fmt: skip


def own_program(work: Path, prompt: str, new_tokens: int, length: int) -> dict[str, Any] | None:
    """llama.cpp's ``llama-speculative-simple``, with the transplant and with the untouched model as the draft."""
    program = os.environ.get("LLAMA_SPECULATIVE")
    if program is None:
        return None
    threads = str(torch.get_num_threads())
    how = ["--spec-type", "draft-simple", "--spec-draft-n-max", str(length), "--temp", "0", "-n", str(new_tokens)]
    how += ["-t", threads, "-td", threads, "-c", "1024", "-p", prompt, "-m", str(work / "target.gguf"), "-md"]
    found: dict[str, Any] = {}
    for name in ("draft", "untouched"):
        done = subprocess.run(
            [program, *how, str(work / f"{name}.gguf")], capture_output=True, text=True, errors="replace", check=False,
            env=os.environ | {"LD_LIBRARY_PATH": str(Path(program).parent)},
        )  # fmt: skip
        counts = dict(re.findall(r"(n_drafted|n_accept|n_predict)\s*= (\d+)", done.stdout + done.stderr))
        refused = re.findall(r"what\(\):\s*(.*)", done.stderr)
        found[name] = {key: int(value) for key, value in counts.items()} or {"refused": refused[:1]}
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
