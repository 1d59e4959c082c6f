"""A real target behind llama.cpp's server and in transformers, with drafts that were made for it.

    LLAMA_CPP=path/to/build/bin python -m benchmarks.experiments.serving benchmarks/experiments/serving.toml [draft...]

With names of drafts it only makes these, which takes as long as they learn; what was made is kept by models, options
and texts, with the commit that made it. Without names it makes what is missing, and measures everything: run that with
nothing beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import eq
from pathlib import Path
from typing import Any

import transformers

from benchmarks.common import models
from benchmarks.common.cached import ROOT, digest, files_digest, key
from benchmarks.common.prompts import prompts, training_text
from benchmarks.common.provenance import provenance
from tokensurgeon.checkpoint.cache import cache_directory
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.evaluation.drafts import DraftOptions, generate_with
from tokensurgeon.evaluation.loading import LoadedModel, load_model
from tokensurgeon.gguf.quantise import export_quantised

RESULTS = Path(__file__).parents[1] / "results"
MODES = {"greedy": {"temperature": 0.0}, "sampled": {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}}
Sides = dict[str, Path | None]


def main(path: Path, only: Sequence[str] = ()) -> None:
    """Make drafts, or make what is missing and measure."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    experiment = tomllib.loads(path.read_text())
    drafts = {name: made(name, experiment) for name in only or experiment["drafts"]}
    if only:
        return
    os.environ["LLAMA_QUANTIZE"] = str(_program("llama-quantize"))
    result = provenance(path.stem) | {"settings": experiment}
    result["drafts"] = {name: told(directory) for name, directory in drafts.items()}
    result["llama.cpp"] = in_llama_cpp(experiment, drafts)
    print(json.dumps(result["llama.cpp"], indent=1), flush=True)
    result["transformers"] = in_transformers(experiment, drafts)
    (RESULTS / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


def made(name: str, experiment: dict[str, Any]) -> Path:
    """A draft, made by the command for the experiment's target, or kept."""
    draft, target = experiment["drafts"][name], getattr(models, experiment["target"])()
    base = getattr(models, draft["small"])()
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-serving-") as work:
        training_text(Path(work), experiment["learn"]["bytes"])
        files = sorted(Path(work).iterdir())
        made_as = key(digest(base), digest(target), draft, files_digest(files))
        out = cache_directory() / "serving" / made_as
        if not out.is_dir():
            out.parent.mkdir(exist_ok=True)
            begun = provenance("serving")
            command = [".venv/bin/tokensurgeon", "draft", str(base), str(target), "--out", str(out), *draft["options"]]
            texts = [word for file in files for word in ("--text", str(file))]
            subprocess.run([*command, *texts, "--for", "llama.cpp", "--json"], check=True)
            _made_by(out).write_text(json.dumps(begun))
    return out


def _made_by(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def told(directory: Path) -> dict[str, Any]:
    """What the command measured of a draft, and its training."""
    content = Manifest.of_output(directory).content
    runs = content.get("healed", {}).get("runs", [])
    training = {name: run[name] for run in runs for name in ("minutes", "steps", "texts", "lora", "curve")}
    return content["draft"] | {"training": training, "made_by": json.loads(_made_by(directory).read_text())}


def in_llama_cpp(experiment: dict[str, Any], drafts: dict[str, Path]) -> dict[str, Any]:
    """All sides behind llama-server: the best length of each by some prompts, then greedy and sampled by others."""
    asked = experiment["llama.cpp"]
    all_prompts = prompts(asked["greedy"] + asked["tune_prompts"], asked["prompt_bytes"])
    tune, others = all_prompts[: asked["tune_prompts"]], all_prompts[asked["tune_prompts"] :]
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-serving-") as place:
        work, target = Path(place), getattr(models, experiment["target"])()
        seconds = {kind: _reading(target, work / f"{kind}.gguf", asked, kind) for kind in asked["timed_types"]}
        (work / f"{asked['type']}.gguf").rename(work / "target.gguf")
        print(seconds, flush=True)
        sides: Sides = {"no draft": None, "native": getattr(models, experiment["native"])(), **drafts}
        found: dict[str, Any] = {}
        for number, (name, directory) in enumerate(sides.items()):
            if directory is not None:
                export_quantised(str(directory), work / f"{number}.gguf", asked["draft_type"])
            tuned = {}
            for length in [0] if directory is None else asked["draft_tokens"]:
                with served(work, number, length, asked) as port:
                    tuned[length] = write(port, tune, asked["new_tokens"], "greedy")[0]
            best = max(tuned, key=lambda length: tuned[length]["tokens_per_second"])
            found[name] = {"draft_tokens": best, "by_length": {str(length): of for length, of in tuned.items()}}
            print(name, json.dumps(found[name]), flush=True)
        for mode in MODES:  # sides follow each other closely, so that all meet the same state of the machine
            alone: list[str] = []
            for number, name in enumerate(sides):
                with served(work, number, found[name]["draft_tokens"], asked) as port:
                    found[name][mode], texts = write(port, others[: asked[mode]], asked["new_tokens"], mode)
                alone = alone or texts
                found[name][mode] |= {"same_texts": sum(map(eq, texts, alone)), "texts": len(texts)}
                print(name, mode, json.dumps(found[name][mode]), flush=True)
    for mode in MODES:
        speed = found["no draft"][mode]["tokens_per_second"]
        for of in found.values():
            of[mode]["speed_up"] = of[mode]["tokens_per_second"] / speed
    return {"milliseconds": seconds, "sides": found}


def _reading(target: Path, file: Path, asked: dict[str, Any], kind: str) -> dict[str, float]:
    """Milliseconds that llama-bench says the target takes to read some tokens at once."""
    export_quantised(str(target), file, kind)
    counts = ",".join(map(str, asked["timed_tokens"]))
    command = [
        _program("llama-bench"),
        "-m",
        file,
        "-p",
        counts,
        "-n",
        "8",
        "-t",
        asked["threads"],
        "-r",
        "3",
        "-o",
        "json",
    ]
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
        env=_environment(),
    )  # fmt: skip
    rows = json.loads(done.stdout)
    return {str(row["n_prompt"] or 1): row["avg_ns"] / 1e6 / (1 if row["n_prompt"] else row["n_gen"]) for row in rows}


@contextmanager
def served(work: Path, number: int, draft_tokens: int, asked: dict[str, Any]) -> Iterator[int]:
    """The target behind llama-server, with a draft or without; gives the port."""
    port = asked["port"]
    command = [_program("llama-server"), "-m", work / "target.gguf", "-c", "1024", "-t", asked["threads"], "-np", "1"]
    command += ["--port", port, "--no-webui"]
    if draft_tokens:
        command += ["-md", work / f"{number}.gguf", "--spec-type", "draft-simple", "--spec-draft-n-max", draft_tokens]
    with (work / "server.log").open("w") as log:
        words = [str(word) for word in command]
        server = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=_environment())
    try:
        for _ in range(600):
            if server.poll() is not None:
                sys.exit(f"llama-server ended: {(work / 'server.log').read_text()[-2000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                    if answer.status == 200:
                        break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        else:
            sys.exit(f"llama-server does not answer: {(work / 'server.log').read_text()[-2000:]}")
        yield port
    finally:
        server.terminate()
        server.wait()


def write(port: int, starts: Sequence[str], new_tokens: int, mode: str) -> tuple[dict[str, Any], list[str]]:
    """Go on from all prompts, one after the other; times are the server's own, of writing alone."""
    sums = {"predicted_n": 0, "predicted_ms": 0.0, "draft_n": 0, "draft_n_accepted": 0}
    texts = []
    for number, prompt in enumerate(starts):
        asked = {"prompt": prompt, "n_predict": new_tokens, "ignore_eos": True, "cache_prompt": False, "seed": number}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/completion", json.dumps(asked | MODES[mode]).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request) as answer:
            content = json.load(answer)
        texts.append(content["content"])
        for name in sums:
            sums[name] += content["timings"].get(name, 0)
    drafted, passes = sums["draft_n"], sums["predicted_n"] - sums["draft_n_accepted"]
    return {
        "tokens": sums["predicted_n"],
        "acceptance": sums["draft_n_accepted"] / drafted if drafted else None,
        "tokens_per_pass": sums["predicted_n"] / max(1, passes),
        "tokens_per_second": 1000 * sums["predicted_n"] / sums["predicted_ms"],
    }, texts


def in_transformers(experiment: dict[str, Any], drafts: dict[str, Path]) -> dict[str, Any]:
    """All sides in transformers, and the untouched small models by universal assisted decoding."""
    asked = experiment["transformers"]
    sides: dict[str, LoadedModel | None] = {"no draft": None}
    for name in asked["sides"]:
        untouched = name.removeprefix("untouched ")
        directory = drafts[name] if name in drafts else getattr(models, experiment.get(name, untouched))()
        sides[name] = load_model(directory, fast=True)
    options = DraftOptions(new_tokens=asked["new_tokens"], draft_tokens=asked["draft_tokens"])
    starts = prompts(asked["prompts"], experiment["llama.cpp"]["prompt_bytes"])
    target = load_model(getattr(models, experiment["target"])(), fast=True)
    return generate_with(target, sides, starts, options, lambda *told: print(*told, flush=True))


def _environment() -> dict[str, str]:
    """Without what tells OpenMP how to wait: a third of the speed of llama.cpp hangs on it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    return kept | {"LD_LIBRARY_PATH": os.environ["LLAMA_CPP"]}


def _program(name: str) -> Path:
    place = os.environ.get("LLAMA_CPP")
    if place is None or not (Path(place) / name).is_file():
        sys.exit(f"set LLAMA_CPP to the directory of llama.cpp's programs: {name} is needed")
    return Path(place) / name


if __name__ == "__main__":
    os.chdir(ROOT)
    main(Path(sys.argv[1]).absolute(), sys.argv[2:])
