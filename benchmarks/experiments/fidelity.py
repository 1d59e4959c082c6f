"""What each method loses, on real pairs of models: transplants by whole commands, scored by the same code.

    python -m benchmarks.experiments.fidelity benchmarks/experiments/fidelity.toml [PAIR...]

Every pair has a result file of its own, because all of them take hours; the page joins them. Every transplant and every
scoring is cached by what goes into it (inputs, options, the source code that does it), so that an interrupted run goes
on where it was, and a second run makes only what changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import transformers

from benchmarks.common import intervals, models, texts
from benchmarks.common.cached import ROOT, Cached, digest, files_digest, key, own_source, source, versions
from benchmarks.common.measures import CHOICES, COMPLETIONS, lossy, measure, measure_forced, precision
from benchmarks.common.provenance import provenance
from benchmarks.common.timing import timed
from benchmarks.tables.fidelity_page import write_page
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.cache import cache_directory
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.pinning import choose_class
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.texts import python_text
from tokensurgeon.surgery.pair import align_models

RESULTS = Path(__file__).parents[1] / "results"
_SCORED_BY = ("tokensurgeon/evaluation/*.py", "benchmarks/common/measures.py", "benchmarks/common/texts.py")
_ALIGNED_BY = ("tokensurgeon/vocabulary/*.py", "tokensurgeon/alignment/*.py")


def main(path: Path, only: Iterable[str] = (), results: Path = RESULTS) -> None:
    """Run what is missing, of all pairs or some, and write the results and their page."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    experiment = read_experiment(path)
    bench = Bench(experiment, cache_directory() / "fidelity")
    results.mkdir(exist_ok=True)
    for name in only or experiment["pairs"]:
        pair = experiment["pairs"][name]
        sides = {side: experiment["sides"][side] for side in pair["sides"]}
        settings = {"measures": measures_of(experiment, pair), "sides": sides, "mergekit": peer_version()}
        result = provenance(path.stem) | {"settings": settings, "title": pair["title"], "pair": bench.pair(pair)}
        (results / f"{path.stem}_{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        if experiment.get("page"):
            write_page(all_results(path, results), results / f"{path.stem}.html")


def read_experiment(path: Path) -> dict[str, Any]:
    """A file of experiments; where it says ``pairs_of`` another, of the same pairs, with all sides and what it adds."""
    experiment = tomllib.loads(path.read_text())
    if "pairs_of" in experiment:
        others, own = read_experiment(path.parent / experiment["pairs_of"])["pairs"], experiment.get("pairs", {})
        if unknown := sorted(own.keys() - others.keys()):
            raise ValueError(f"{path}: {experiment['pairs_of']} has no pair {unknown[0]!r}")
        names = ("title", "base", "donor", "measures")
        experiment["pairs"] = {
            name: {part: pair[part] for part in names if part in pair}
            | {"sides": list(experiment.get("sides", ()))}
            | own.get(name, {})
            for name, pair in others.items()
        }
    return experiment


def all_results(path: Path, results: Path = RESULTS) -> list[dict[str, Any]]:
    """The results of an experiment file that are there, in its order."""
    files = [results / f"{path.stem}_{name}.json" for name in read_experiment(path)["pairs"]]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def measures_of(experiment: dict[str, Any], pair: dict[str, Any]) -> dict[str, Any]:
    """What is measured on a pair: the experiment's measures, with its own in their place, as this processor can."""
    measures = {**experiment["measures"], **pair.get("measures", {})}
    return measures | ({"dtype": precision(measures["dtype"])} if "dtype" in measures else {})


class Bench:
    """Runs and caches."""

    def __init__(self, experiment: dict[str, Any], cached: Path) -> None:
        """Results go to ``cached``, one file each."""
        self.experiment, self.cached = experiment, Cached(cached)

    def pair(self, pair: dict[str, Any]) -> dict[str, Any]:
        """All sides of one pair, as figures with intervals."""
        base, donor = (getattr(models, pair[side])() for side in ("base", "donor"))
        settings = measures_of(self.experiment, pair)
        _, right, aligned, _ = align_models(str(base), str(donor))
        rows, through = Manifest({}, aligned.plan), lossy(right.vocabulary)
        seen = (digest(donor),) if through else ()
        untouched = self._scores((digest(base), *seen), settings, lambda: measure(base, settings, None, through))
        cut_by = (digest(base), digest(donor), *map(source, _ALIGNED_BY))
        forced = self._scores(("forced", *cut_by), settings, lambda: measure_forced(base, donor, settings, through))
        entry: dict[str, Any] = {
            "lossy": through is not None,
            "untouched": figures(untouched, untouched, None),
            "segmentation": intervals.loss(forced["texts"], untouched["texts"]),
            "sides": {},
        }
        provenance_of_rows = hashlib.sha256(rows.plan.provenance.tobytes()).hexdigest()
        for side in pair["sides"]:

            def score(out: Path) -> dict[str, Any]:
                return measure(out, settings, rows, through)

            made, scores = self._side(side, (base, donor), (provenance_of_rows, *seen), settings, score)
            entry["sides"][side] = {**made, **(figures(scores, untouched, forced) if scores else {})}
            loss = f"+{entry['sides'][side]['loss']['mean']:.4f}, {made['wall_s']} s" if scores else made["failed"]
            print(f"{pair['title']}, {side}: {loss}", flush=True)
        return entry

    def _side(
        self,
        side: str,
        pair: tuple[Path, Path],
        seen: tuple[str, ...],
        settings: dict[str, Any],
        score: Callable[[Path], dict[str, Any]],
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Time, memory and figures of a transplant, and the scores of what it made; or why a peer failed."""
        base, donor = pair
        options, peer = self.experiment["sides"][side], side.startswith("mergekit")
        maker = peer_version() if peer else own_source()
        made_as = key("transplant", options, digest(base), digest(donor), maker)
        made = self.cached.read(made_as)
        if made is not None and "failed" in made:
            return made, None
        if made is not None and (scores := self.cached.read(_score_key((made["model"], *seen), settings))) is not None:
            return made, scores
        with tempfile.TemporaryDirectory(prefix="tokensurgeon-fidelity-") as work:
            out, text = Path(work) / "out", Path(work) / "python.txt"
            text.write_text("".join(python_text(10**7, part) for part in range(4)))
            program = [".venv-peers/bin/mergekit-tokensurgeon", str(base), str(donor), str(out)]
            if not peer:
                program = [".venv/bin/tokensurgeon", str(base), str(donor), "--out", str(out), "--quiet"]
            try:
                run = timed([*program, *(option.format(text=text) for option in options)])
                if peer:
                    pinned(out)
            except (RuntimeError, InputError) as error:
                if not peer:
                    raise
                made = {"failed": str(error).strip().splitlines()[-1]}
                self.cached.write(made_as, made)
                return made, None
            own = Manifest.read(out)
            again = {**run, "held_out": own.content["held_out"] if own else None, "model": digest(out)}
            again |= {name: own.content[name] for name in ("choice", "loss", "stages") if own and own.content.get(name)}
            if made is None or made["model"] != again["model"]:
                made = again
                self.cached.write(made_as, made)
            return made, self._scores((made["model"], *seen), settings, lambda: score(out))

    def _scores(
        self, model: tuple[str, ...], settings: dict[str, Any], run: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        return self.cached.once(_score_key(model, settings), run)


def figures(scores: dict[str, Any], untouched: dict[str, Any], forced: dict[str, Any] | None) -> dict[str, Any]:
    """What is shown of one model."""
    documents = [d for of in scores["texts"].values() for d in of]
    row: dict[str, Any] = {
        "bits_per_byte": intervals.bits_per_byte(scores["texts"]),
        "loss": intervals.loss(scores["texts"], untouched["texts"]),
        **{task: intervals.accuracy(scores[task]) for task in (*CHOICES, *COMPLETIONS) if task in scores},
    }
    if "arithmetic_bits" in scores:
        bits, n_bytes = (sum(column) for column in zip(*scores["arithmetic_bits"], strict=True))
        row["arithmetic_bits_per_byte"] = bits / n_bytes
    if forced is not None:
        row["reconstruction"] = intervals.loss(scores["texts"], forced["texts"])
    for group in ("shared", "new"):
        tokens = sum(d.get(f"{group}_tokens", 0) for d in documents)
        if tokens:
            nats = sum(d[f"{group}_nats"] for d in documents)
            row[f"{group}_tokens"] = {"tokens": tokens, "nats_per_token": nats / tokens}
    if any("dead_mass" in d for d in documents):
        row["dead_mass"] = sum(d["dead_mass"] for d in documents) / sum(d["tokens"] for d in documents)
    return row


def pinned(out: Path) -> None:
    """Make a peer's output cut text as its tokenizer.json says.

    For some types of body (qwen2) transformers cuts text by a class of its own, whatever the files say: nearer to the
    base's tokenizer, in which the base reads better, and not by the donor's, which is what is compared.
    """
    choose_class(TokenizerFiles.open(out), out, foreign=False).write(out)


@cache
def peer_version() -> str:
    """The peer, as its environment has it."""
    names = ("mergekit", "torch", "transformers")
    ask = f"from importlib.metadata import version; print(*(n + ' ' + version(n) for n in {names}))"
    return subprocess.run(
        [".venv-peers/bin/python", "-c", ask], stdout=subprocess.PIPE, check=True, text=True
    ).stdout.strip()


def _score_key(model: tuple[str, ...], settings: dict[str, Any]) -> str:
    return key("scores", model, settings, versions(), _texts_digest(), *map(source, _SCORED_BY))


@cache
def _texts_digest() -> str:
    directory = texts.eval_directory()
    return files_digest(sorted(directory.iterdir())) if directory else "python-topics"


if __name__ == "__main__":
    if shutil.which(".venv-peers/bin/mergekit-tokensurgeon") is None:
        sys.exit("run `make install` first: the peers are missing")
    os.chdir(ROOT)
    main(Path(sys.argv[1]).absolute(), sys.argv[2:])
