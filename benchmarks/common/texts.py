"""The text that experiments measure on.

TOKENSURGEON_EVAL names a directory with the evaluation sets; without it there is only Python's own text.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.common.continuations import Question
from tokensurgeon.evaluation.texts import python_text, split_bytes

CORPORA = ("wikitext2", "lambada", "arxiv", "gsm8k")


def eval_directory() -> Path | None:
    """Where the evaluation sets lie, if they are there."""
    chosen = os.environ.get("TOKENSURGEON_EVAL")
    return Path(chosen) if chosen and Path(chosen).is_dir() else None


def required_directory() -> Path:
    """The same; where they are not there, the command ends and says what to set."""
    directory = eval_directory()
    if directory is None:
        sys.exit("set TOKENSURGEON_EVAL to the directory with the evaluation sets")
    return directory


def corpora(n_bytes: int) -> dict[str, list[str]]:
    """Name to pieces of at most 2 kB, in all about ``n_bytes`` of each corpus, from its beginning."""
    return {name: [piece for pieces in of for piece in pieces] for name, of in documents(n_bytes).items()}


def documents(n_bytes: int) -> dict[str, list[list[str]]]:
    """Name to documents, each as its pieces; see `corpora`.

    Every document is scored on its own; GSM8K items have the form that lm-evaluation-harness gives them. What is
    one long text (WikiText-2, Python's) counts every piece as a document.
    """
    directory = eval_directory()
    if directory is None:
        return {"python-topics": [[piece] for piece in split_bytes(python_text(n_bytes))]}
    wikitext = (directory / "wikitext2_valid.txt").read_text().encode()[:n_bytes].decode("utf-8", "ignore")
    found: dict[str, Iterable[str]] = {
        "wikitext2": split_bytes(wikitext),
        "lambada": (f"{row['context']} {row['continuation']}" for row in _rows(directory / "lambada_dev.jsonl")),
        "arxiv": (row["text"] for row in _rows(directory / "arxiv_dev.jsonl")),
        "gsm8k": (
            f"Question: {row['context']}\nAnswer: {row['chain_of_thought']}"
            for row in _rows(directory / "gsm8k_dev.jsonl")
        ),
    }
    return {name: [split_bytes(d) for d in _first(found[name], n_bytes)] for name in CORPORA}


def questions(task: str, n: int) -> list[Question]:
    """The first items of ARC-easy or PIQA, in the form that lm-evaluation-harness gives them."""
    return [
        Question(f"{row['query'].strip()}\nAnswer:", tuple(f" {choice}" for choice in row["choices"]), row["gold"])
        for row in islice(_rows(required_directory() / f"{task}_dev.jsonl"), n)
    ]


def completions(task: str, n: int) -> list[tuple[str, str]]:
    """Context and continuation of the first items of LAMBADA or arithmetic."""
    space = " " if task == "lambada" else ""
    rows = islice(_rows(required_directory() / f"{task}_dev.jsonl"), n)
    return [(row["context"], f"{space}{row['continuation']}") for row in rows]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        for line in file:
            yield json.loads(line)


def _first(documents: Iterable[str], n_bytes: int) -> Iterator[str]:
    left = n_bytes
    for document in documents:
        yield document.encode()[:left].decode("utf-8", "ignore")
        left -= len(document.encode())
        if left <= 0:
            return
