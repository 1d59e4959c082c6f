"""What the fidelity bench measures on one model directory, item by item, so that intervals can be had."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import texts
from benchmarks.common.continuations import Continuation, answer, score_continuations
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.evaluation.evaluate import gold_groups
from tokensurgeon.evaluation.loading import LoadedModel, computes_in_bfloat16, load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.segmentation import base_pieces

__all__ = ["answers", "completed", "load", "lossy", "measure", "measure_forced", "precision"]

Through = Callable[[str], str] | None

_FRAGMENT = 128
"""Bytes. Where the last document of a corpus is cut off shorter than this, it would weigh as a whole one."""
CHOICES = ("arc_easy", "piqa")
COMPLETIONS = ("lambada", "arithmetic")


def measure(
    directory: Path, settings: dict[str, Any], rows: Manifest | None, through: Through = None
) -> dict[str, Any]:
    """All measures of one model, as lists with one entry per document or item.

    Args:
        directory: The model.
        settings: ``bytes`` of each corpus (0 for none), ``items`` of each task, if any, and ``dtype``, if all is to be
            measured in another precision than the model's own.
        rows: Provenance of every row, to split the loss by gold token and to watch dead ids: our own alignment of
            the pair, for peers' models too.
        through: A donor's tokenizer that loses something (case, newlines). All sides of its pair are scored on what
            it leaves of the texts, and on no tasks.
    """
    loaded = load(directory, settings)
    result: dict[str, Any] = {"texts": _texts(loaded, loaded.encode, settings["bytes"], rows, through)}
    if through is not None or not settings["items"]:
        return result
    for task in (task for task in COMPLETIONS if task in settings["items"]):
        found = completed(loaded, task, settings["items"][task])
        result[task] = [int(score.greedy) for score in found]
        result[f"{task}_bits"] = [[score.nats / math.log(2), score.n_bytes] for score in found]
    loaded.model.to(getattr(torch, precision("bfloat16")))  # in place; three times faster, the same for all sides
    for task in CHOICES:
        result[task] = answers(loaded, task, settings["items"][task])
    return result


def precision(name: str) -> str:
    """A precision by name, but float32 for bfloat16 where the processor has no instructions for that."""
    slow = name == "bfloat16" and not computes_in_bfloat16(torch.device("cpu"))
    return "float32" if slow else name


def load(directory: Path, settings: dict[str, Any]) -> LoadedModel:
    """A model in the precision that is asked for."""
    loaded = load_model(directory)
    if "dtype" in settings:
        loaded.model.to(getattr(torch, settings["dtype"]))
    return loaded


def completed(loaded: LoadedModel, task: str, n: int) -> list[Continuation]:
    """Scores of the first items of LAMBADA or arithmetic."""
    return score_continuations(loaded.model, loaded.encode, loaded.prefix, texts.completions(task, n))


def answers(loaded: LoadedModel, task: str, n: int) -> list[int]:
    """1 or 0 for each of the first items of ARC-easy or PIQA."""
    items = texts.questions(task, n)
    pairs = [(q.context, choice) for q in items for choice in q.choices]
    scores = iter(score_continuations(loaded.model, loaded.encode, loaded.prefix, pairs))
    return [int(answer(q, [next(scores) for _ in q.choices])) for q in items]


def lossy(donor: Vocabulary) -> Callable[[str], str] | None:
    """What a tokenizer leaves of a text, if it is not all of it."""

    def back(text: str) -> str:
        return donor.decode(donor.encode(text))

    sample = "The Quick brown fox\n\njumps, naïve."
    return None if back(sample) == sample else back


def measure_forced(base: Path, donor: Path, settings: dict[str, Any], through: Through = None) -> dict[str, Any]:
    """The untouched base, fed every text in the donor's segmentation.

    Each donor token becomes the equal base token, or the base's pieces where there is none. It is a reference for
    what rows can do, and no limit: one good row may do better than the pieces that it stands for.
    """
    loaded, left, right = load(base, settings), OpenModel.open(str(base), "all"), OpenModel.open(str(donor), "none")
    ids = base_pieces(left.vocabulary, right.vocabulary, range(len(right.vocabulary)), len(left.vocabulary))
    known = left.vocabulary.text_ids()
    for token_id, key in enumerate(right.vocabulary.keys):
        if key is not None and key.data in known:
            ids[token_id] = [known[key.data]]

    def encode(text: str) -> list[int]:
        return [piece for token_id in right.vocabulary.encode(text) for piece in ids[token_id]]

    return {"texts": _texts(loaded, encode, settings["bytes"], None, through)}


def _texts(
    loaded: LoadedModel, encode: Callable[[str], list[int]], n_bytes: int, rows: Manifest | None, through: Through
) -> dict[str, list[dict[str, float]]]:
    groups, dead = gold_groups(rows, loaded)
    found: dict[str, list[dict[str, float]]] = {}
    for name, documents in texts.documents(n_bytes).items():
        found[name] = []
        for raw in documents:
            if sum(len(piece.encode()) for piece in raw) < _FRAGMENT:
                continue
            pieces = raw if through is None else [left for piece in raw if (left := through(piece))]
            score = score_text(loaded.model, encode, loaded.prefix, pieces, groups=groups, watched=dead)
            entry = {"nats": score.nats, "bytes": score.n_bytes, "tokens": score.positions}
            for group, (count, nats) in score.groups.items():
                entry |= {f"{group}_tokens": count, f"{group}_nats": nats}
            if score.mass is not None:
                entry["dead_mass"] = score.mass * score.positions
            found[name].append(entry)
    return found
