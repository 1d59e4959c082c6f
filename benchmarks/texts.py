"""The text that experiments measure on.

TOKENSURGEON_EVAL names a directory with the evaluation sets; without it there is only Python's own text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokensurgeon.evaluation.texts import python_text, split_bytes

CORPORA = ("wikitext2", "lambada", "arxiv", "gsm8k")


def eval_directory() -> Path | None:
    """Where the evaluation sets lie, if they are there."""
    chosen = os.environ.get("TOKENSURGEON_EVAL")
    return Path(chosen) if chosen and Path(chosen).is_dir() else None


def corpora(n_bytes: int) -> dict[str, list[str]]:
    """Name to pieces of at most 2 kB, in all about ``n_bytes`` of each corpus, from its beginning.

    Every document is scored on its own; GSM8K items have the form that lm-evaluation-harness gives them.
    """
    directory = eval_directory()
    if directory is None:
        return {"python-topics": split_bytes(python_text(n_bytes))}
    documents: dict[str, Iterable[str]] = {
        "wikitext2": [(directory / "wikitext2_valid.txt").read_text()],
        "lambada": (f"{row['context']} {row['continuation']}" for row in _rows(directory / "lambada_dev.jsonl")),
        "arxiv": (row["text"] for row in _rows(directory / "arxiv_dev.jsonl")),
        "gsm8k": (
            f"Question: {row['context']}\nAnswer: {row['chain_of_thought']}"
            for row in _rows(directory / "gsm8k_dev.jsonl")
        ),
    }
    return {name: [p for d in _first(documents[name], n_bytes) for p in split_bytes(d)] for name in CORPORA}


def _rows(path: Path) -> Iterator[dict[str, str]]:
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
