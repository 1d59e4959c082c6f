"""What some minutes of healing give back, on text of the kind that was trained on and of others.

    python -m benchmarks.experiments.heal benchmarks/experiments/heal.toml [PAIR ...]

Sides go by updates, so that other work on the machine changes nothing but the time; the time of a processor is counted.
They are trained on ``other`` text (WikiText-2 and Python's documentation: only the first is of a kind that is
measured) or on text ``alike`` (other documents of the four corpora that are measured). A part of Python's documentation
is measured beside; with text alike it is of a kind that was not trained on. The control is the untouched base, trained
in the same way on the same text: what it gains is no healing. What a transplant may be for besides is measured before
and after: drafts for its donor, and merging with its base.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.common import models, texts
from benchmarks.common.measures import measure
from benchmarks.common.pairs import run_pairs
from benchmarks.common.splits import Splits
from benchmarks.common.timing import timed
from benchmarks.experiments.fidelity import figures, measures_of
from benchmarks.experiments.merge import merge, recipe
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.evaluation.drafts import DraftOptions, bench_drafts
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.texts import python_text, split_bytes

_BEHIND = {"lambada": 300, "arxiv": 8, "gsm8k": 60}
"""Documents of each corpus from which on nothing is measured."""
_EACH = 200_000
_PYTHON = 12_288
_DRAFTS = DraftOptions(prompts=8, prompt_bytes=400, new_tokens=32, draft_tokens=4)
_LINEAR = {"method": "linear", "parameters": {"weight": 0.5}}


def main(path: Path, only: Iterable[str] = ()) -> None:
    """Run the pairs and write one result file each."""
    run_pairs(path, only, one)


def one(experiment: dict[str, Any], pair: dict[str, Any], work: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and figures of a pair."""
    settings = {
        "transplant": experiment["transplant"],
        "sides": pair["sides"],
        "measures": measures_of(experiment, pair),
        "merged_by": pair.get("merged_by", experiment["merged_by"]) if pair.get("used", True) else None,
    }
    return settings, {"pair": run(settings, pair, work)}


def run(settings: dict[str, Any], pair: dict[str, Any], work: Path) -> dict[str, Any]:
    """One pair: the base, its transplant, and every side."""
    base, donor = (getattr(models, pair[side])() for side in ("base", "donor"))
    start = work / "start"
    timed([".venv/bin/tokensurgeon", str(base), str(donor), "--out", str(start), *settings["transplant"], "--quiet"])
    manifest = Manifest.read(start)
    measures, merged_by = settings["measures"], settings["merged_by"]
    untouched, splits = measure(base, measures, None, None), Splits(base, start, measures)
    found: dict[str, Any] = {
        "untouched": {**figures(untouched, untouched, None), "python": python_bits(base)},
        "transplant": {
            **figures(measure(start, measures, manifest, None), untouched, None),
            "python": python_bits(start),
            "splits": splits.of(start),
            **of_use(start, (base, donor), work, merged_by, untouched, measures),
        },
        "sides": {},
    }
    print("transplant", found["transplant"]["loss"], flush=True)
    for side, how in settings["sides"].items():
        control, out = side.startswith("control"), work / side.replace(" ", "-")
        model = base if control else start
        command = [".venv/bin/tokensurgeon", "heal", str(model), "--teacher", str(base), "--out", str(out), "--quiet"]
        text = training_text(work, how["text"])
        timing = timed([*command, *(part for file in text for part in ("--text", str(file))), *how["options"]])
        scores = measure(out, measures, None if control else manifest, None)
        row = {**timing, **figures(scores, untouched, None), "python": python_bits(out)}
        healed = Manifest.read(out)
        if healed is not None:
            row["healed"] = {k: v for k, v in healed.content["healed"]["runs"][-1].items() if k != "text"}
            row |= {
                "splits": splits.of(out),
                **of_use(out, (base, donor), work, merged_by, untouched, measures),
            }
        found["sides"][side] = row
        print(side, row["loss"], {k: row[k]["mean"] for k in ("lambada", "arc_easy", "piqa") if k in row}, flush=True)
    return found


def of_use(
    model: Path,
    sides: tuple[Path, Path],
    work: Path,
    merged_by: dict[str, Any] | None,
    untouched: dict[str, Any],
    measures: dict[str, Any],
) -> dict[str, Any]:
    """Drafts that the donor accepts, and the loss of a merge with the base, half and half, into the base's ids."""
    if merged_by is None:
        return {}
    base, donor = sides
    texts = [work / "drafted.txt"]
    texts[0].write_text(python_text(_PYTHON, 3))
    drafts = bench_drafts(str(model), str(donor), texts, options=_DRAFTS)["draft"]
    merge(recipe(_LINEAR, model, base, base), work, {"tokenizer": str(base), **merged_by})
    merged = measure(work / "out", measures | {"items": {}}, None, None)
    shutil.rmtree(work / "out")
    found = {mode: of["acceptance"] for mode, of in drafts.items()}
    return {"accepted": found, "merged": figures(merged, untouched, None)["loss"]}


def python_bits(directory: Path) -> float:
    """Bits per byte of a part of Python's documentation that no side is trained on."""
    model = load_model(directory)
    return score_text(model.model, model.encode, model.prefix, split_bytes(python_text(_PYTHON, 3))).bits_per_byte


def training_text(work: Path, kind: str) -> list[Path]:
    """Files of text, of documents behind those that are measured."""
    directory = texts.required_directory()
    wikitext = (directory / "wikitext2_valid.txt").read_bytes()
    files = {"wikitext2": wikitext[400_000:1_000_000].decode("utf-8", "ignore")}
    if kind == "other":
        files["python"] = "".join(python_text(1 << 20, part) for part in range(3))
    else:
        documents = texts.documents(1 << 30)
        for name, start in _BEHIND.items():
            files[name] = "\n\n".join("".join(pieces) for pieces in documents[name][start:])
        files = {name: content.encode()[:_EACH].decode("utf-8", "ignore") for name, content in files.items()}
    for name, content in files.items():
        (work / f"{kind}-{name}.txt").write_text(content)
    return [work / f"{kind}-{name}.txt" for name in files]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
