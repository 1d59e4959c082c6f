"""Which way to distil: after a transplant, with the student's own tokenizer, or without a teacher.

    python -m benchmarks.experiments.distil benchmarks/experiments/distil.toml

Sides of a student, all on the same pieces in the same order:

* ``text``: its own tokenizer, no teacher;
* ``own``: its own tokenizer, the teacher's distributions put into its ids (marginalisation over byte prefixes);
* ``own_teacher``: the same, with a larger share of the teacher;
* ``gold``: its own tokenizer, by TRL's GOLDTrainer, which takes no cache: the teacher reads all in the training;
* ``transplant``: the teacher's tokenizer by a transplant, the teacher's distributions position by position;
* ``transplant_text``: the same student, no teacher;
* ``written``: its own tokenizer, no teacher, on text that the teacher wrote.

What was measured is cached by side and seed, so that a broken run goes on.
"""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.common import models, texts
from benchmarks.common.cached import Cached, digest, key, own_source, source
from benchmarks.common.first_bytes import divergence, first_bytes
from benchmarks.common.intervals import bits_per_byte
from benchmarks.common.measures import CHOICES, answers, completed
from benchmarks.common.provenance import provenance
from benchmarks.common.timing import timed
from tokensurgeon.checkpoint.cache import cache_directory, is_kept
from tokensurgeon.evaluation.loading import LoadedModel, load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.texts import split_bytes
from tokensurgeon.healing.texts import divide

RESULTS = Path(__file__).parents[1] / "results"
WORK = cache_directory() / "distil"
OTHERS = ("lambada", "gsm8k")
_LEARNT = (
    "argparse.py ast.py dataclasses.py enum.py zipfile.py tarfile.py typing.py inspect.py difflib.py configparser.py"
)
_NOT_LEARNT = "smtplib.py csv.py heapq.py shlex.py sched.py"
_PIECE = 1024
_WEIGHTS = {"own": 0.5, "transplant": 0.5, "own_teacher": 0.9, "gold": 0.6}
"""Shares of the teacher."""


def main(path: Path, only: Sequence[str] = ()) -> None:
    """Measure teacher and students, then every side."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    settings = tomllib.loads(path.read_text())
    experiment = Experiment(settings)
    result: dict[str, Any] = provenance(path.stem) | {"settings": settings, "students": {}}
    result["teacher"] = experiment.measured("teacher", experiment.teacher, tasks=True)
    result["cache"] = experiment.read_once(settings["students"][0]["name"])
    for student in settings["students"]:
        if only and student["name"] not in only:
            continue
        result["students"][student["name"]] = experiment.student(student)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


class Experiment:
    """What all sides share."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Lay out the texts."""
        WORK.mkdir(parents=True, exist_ok=True)
        self.settings, self.cached = settings, Cached(WORK / "measured")
        self.teacher = getattr(models, settings["teacher"])()
        library = Path(sysconfig.get_paths()["stdlib"])
        code, other = ("".join((library / n).read_text() for n in of.split()) for of in (_LEARNT, _NOT_LEARNT))
        prose = (texts.required_directory() / "wikitext2_valid.txt").read_bytes()
        size, measured = settings["bytes"], settings["measured"]
        self.files = [WORK / "code.txt", WORK / "prose.txt"]
        self.files[0].write_text(code[:size])
        self.files[1].write_text(prose[100_000 : 100_000 + size].decode("utf-8", "ignore"))
        held_out = prose[900_000 : 900_000 + measured].decode("utf-8", "ignore")
        self.measures = {"code": split_bytes(other[:measured], _PIECE), "prose": split_bytes(held_out, _PIECE)}
        self.measures |= {name: of for name, of in texts.corpora(measured).items() if name in OTHERS}

    def student(self, student: dict[str, Any]) -> dict[str, Any]:
        """A student as it is, after the transplant, and on every side."""
        base = getattr(models, student["name"])()
        moved = self.transplanted(student["name"], base)
        found: dict[str, Any] = {
            "untouched": self.measured(f"{student['name']} untouched", base, tasks=True),
            "transplant": self.measured(f"{student['name']} transplant", moved, tasks=True),
            "sides": {side: [] for side in student["sides"]},
        }
        for seed in range(max(student["sides"].values())):
            for side, seeds in student["sides"].items():
                if seed < seeds:
                    start = moved if side.startswith("transplant") else base
                    found["sides"][side].append(self.side(student["name"], side, start, seed))
        return found

    def side(self, student: str, side: str, start: Path, seed: int) -> dict[str, Any]:
        """Train, and measure what came of it."""
        out = WORK / f"{student}-{side}-{seed}"
        name = f"{out.name} trained"

        def run() -> dict[str, Any]:
            return timed(self.command(side, start, out, seed)) | json.loads((WORK / f"{out.name}.json").read_text())

        trained = self.cached.once(self.key(name, _WEIGHTS.get(side), source("benchmarks/peers/uld.py")), run)
        found = self.measured(out.name, out, tasks=seed == 0)
        print(out.name, bits_per_byte(found["texts"]), flush=True)
        return trained | found

    def read_once(self, student: str) -> dict[str, Any]:
        """The same short training with an empty cache and with a full one, and the cache's size."""
        out, cache, steps = WORK / f"{student}-read", WORK / "read", self.settings["read"]

        def run() -> dict[str, Any]:
            shutil.rmtree(cache, ignore_errors=True)
            found: dict[str, Any] = {}
            for time in ("first", "again"):
                command = self.command("own", getattr(models, student)(), out, 0, cache, steps)
                found[time] = timed(command) | json.loads((WORK / f"{out.name}.json").read_text())
            found["cache_bytes"] = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
            return found | {"text_bytes": found["first"]["read"] * _PIECE}

        return self.cached.once(self.key("read", student, steps), run)

    def command(
        self, side: str, start: Path, out: Path, seed: int, cache: Path = WORK / "teacher", steps: int | None = None
    ) -> list[str]:
        """What trains a side; it says how it went in a file beside its output."""
        more = {"steps": steps or self.settings["steps"], "seed": seed, "told": str(WORK / f"{out.name}.json")}
        files = [self.written()] if side == "written" else self.files
        job = {"student": str(start), "teacher": str(self.teacher), "text": [str(file) for file in files]}
        job |= {
            "out": str(out),
            "cache": str(cache),
            "weight": _WEIGHTS.get(side, 0.0),
            "gold": side == "gold",
        }
        return [sys.executable, "-m", "benchmarks.experiments.distil", json.dumps(job | more)]

    def transplanted(self, name: str, base: Path) -> Path:
        """The student with its teacher's tokenizer."""
        out = WORK / f"{name}-transplanted"
        if not is_kept(out):
            command = [".venv/bin/tokensurgeon", str(base), str(self.teacher), "--out", str(out), "--quiet"]
            timed([*command, "--overwrite", *self.settings["transplant"]])
        return out

    def written(self) -> Path:
        """What the teacher goes on with behind beginnings of the pieces, drawn by its own probabilities."""
        path, asked = WORK / "written.txt", self.settings["written"]
        if path.is_file():
            return path
        loaded, (train, _, _) = load_model(self.teacher, fast=True), divide(self.files, _PIECE)
        chosen = [train[i] for i in range(0, len(train), max(1, len(train) // asked["prompts"]))][: asked["prompts"]]
        starts = [loaded.encode(piece)[: asked["prompt"]] for piece in chosen]
        torch.manual_seed(0)
        found = []
        for begin in range(0, len(starts), asked["at_once"]):
            some = torch.tensor(starts[begin : begin + asked["at_once"]])
            settings = transformers.GenerationConfig(
                do_sample=True, top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=asked["new"], pad_token_id=0,
                eos_token_id=loaded.model.generation_config.eos_token_id,
            )  # fmt: skip
            with torch.inference_mode():
                made = loaded.model.generate(some, attention_mask=torch.ones_like(some), generation_config=settings)
            found += loaded.tokenizer.batch_decode(made, skip_special_tokens=True)
            print(f"{len(found)} texts written", flush=True)
        path.write_text("\n\n".join(found))
        return path

    def measured(self, name: str, directory: Path, *, tasks: bool) -> dict[str, Any]:
        """Texts by document, the divergence from the teacher by text, and tasks by item."""

        def run() -> dict[str, Any]:
            loaded = load_model(directory, fast=True)
            found: dict[str, Any] = {
                "texts": {corpus: self._scored(loaded, of) for corpus, of in self.measures.items()}
            }
            found["apart"] = {corpus: self._apart(directory, loaded, corpus) for corpus in ("code", "prose")}
            asked = self.settings["tasks"] if tasks else {}
            for task, n in asked.items():
                if task in CHOICES:
                    found[task] = answers(loaded, task, n)
                else:
                    found[task] = [int(one.greedy) for one in completed(loaded, task, n)]
            return found

        return self.cached.once(self.key(name, tasks, digest(directory)), run)

    def key(self, *parts: Any) -> str:
        """Of a measure: what it is of, and all that decides it."""
        return key(
            *parts, {name: of for name, of in self.settings.items() if name not in ("students", "read")}, own_source()
        )

    def _scored(self, loaded: LoadedModel, pieces: Sequence[str]) -> list[dict[str, float]]:
        scores = [score_text(loaded.model, loaded.encode, loaded.prefix, [piece]) for piece in pieces]
        return [{"nats": score.nats, "bytes": score.n_bytes} for score in scores]

    def _apart(self, directory: Path, loaded: LoadedModel, corpus: str) -> list[list[float]]:
        """By piece: sum of divergences from the teacher, and how many places."""
        said = first_bytes(directory, loaded, self.measures[corpus])
        return [[*divergence(wanted, own)] for wanted, own in zip(self._teacher_on(corpus), said, strict=True)]

    def _teacher_on(self, corpus: str) -> list[dict[str, Any]]:
        path = WORK / f"{self.key('beliefs', corpus)}.pt"
        if not path.is_file():
            loaded = load_model(self.teacher, fast=True)
            torch.save(first_bytes(self.teacher, loaded, self.measures[corpus]), path)
        found: list[dict[str, Any]] = torch.load(path, weights_only=False)  # our own file
        return found


def train(job: dict[str, Any]) -> None:
    """One training, in a process of its own."""
    told = train_by_trl(job) if job["gold"] else train_by_ours(job)
    Path(job["told"]).write_text(json.dumps(told))


def train_by_ours(job: dict[str, Any]) -> dict[str, Any]:
    """By `distil`."""
    from tokensurgeon.distilling import DistilOptions, distil

    options = DistilOptions(
        text=tuple(job["text"]), steps=job["steps"], seed=job["seed"], teacher_weight=job["weight"], piece=_PIECE
    )
    found = distil(job["student"], job["teacher"], job["out"], options, cache=job["cache"], overwrite=True)
    report = found.training
    told = {"train_s": report.seconds, "steps": report.steps, "tokens": report.tokens}
    told |= {"read": found.read, "reading_s": found.reading_s}
    return told | {"curve": report.curve, "best": report.best}


def train_by_trl(job: dict[str, Any]) -> dict[str, Any]:
    """By GOLDTrainer, on the same pieces."""
    from benchmarks.peers.uld import train_uld

    student, teacher, out = (Path(job[name]) for name in ("student", "teacher", "out"))
    shutil.rmtree(out, ignore_errors=True)
    pieces = [*divide([Path(name) for name in job["text"]], _PIECE)[0]]
    text = 1 / job["weight"] - 1  # beside the teacher's 1
    found = train_uld(student, teacher, pieces, out, steps=job["steps"], seed=job["seed"], text_weight=text, gold=True)
    return {"train_s": found["seconds"], "steps": job["steps"], "read": job["steps"], "gold": found}


if __name__ == "__main__":
    if sys.argv[1].startswith("{"):
        train(json.loads(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
