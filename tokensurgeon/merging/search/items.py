"""Questions with several answers, as a text to search by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokensurgeon.checkpoint.text import text_lines
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.score import score_text

__all__ = ["Item", "read_items", "score_item"]

_EXAMPLE = '{"context": "Two and two are", "choices": [" four", " five"], "answer": 0}'


@dataclass(frozen=True, slots=True)
class Item:
    """A context, and ways to go on of which one is right.

    Attributes:
        context: What all begin with.
        choices: What may follow, the space before it included.
        answer: Which of them is right, from 0.
    """

    context: str
    choices: tuple[str, ...]
    answer: int


def read_items(path: Path) -> list[Item]:
    """The items of a JSONL file.

    Raises:
        InputError: If it cannot be read, or a line is none; by its number.
    """
    found = []
    try:
        lines = text_lines(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or content.keys() != {"context", "choices", "answer"}:
            raise InputError(f"{path}, line {number} is no item. Write {_EXAMPLE}")
        context, choices, answer = content["context"], content["choices"], content["answer"]
        texts = [context, *choices] if isinstance(choices, list) else [None]
        if not all(isinstance(text, str) for text in texts) or len(choices) < 2:
            raise InputError(f"{path}, line {number}: context must be text, and choices at least two texts: {_EXAMPLE}")
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise InputError(f"{path}, line {number}: answer={answer!r} must be from 0 to {len(choices) - 1}")
        found.append(Item(context, tuple(choices), answer))
    return found


def score_item(loaded: LoadedModel, item: Item) -> float:
    """Nats of the right answer, where one of the choices it must be.

    The context is a part of each text that is compared, so that nothing depends on where a tokenizer cuts between both.
    """
    nats = [_nats(loaded, item.context + choice) for choice in item.choices]
    return max(0.0, float(nats[item.answer] + np.logaddexp.reduce(np.negative(nats))))  # rounding may go below


def _nats(loaded: LoadedModel, text: str) -> float:
    return score_text(loaded.model, loaded.encode, loaded.prefix, [text]).nats
