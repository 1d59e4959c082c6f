"""Cut pieces of text into what a student is asked, and how the text goes on, in the two forms that TRL reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from tokensurgeon.distilling.options import DistilOptions
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.context import halved
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.texts import TextPieces
from tokensurgeon.healing.order import by_weight

__all__ = ["Prompts"]

_PROMPT = 64
_UPDATES = 2048
"""For which pieces of text are drawn where time counts and not steps; they come again behind that."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """What TRL is given.

    Attributes:
        rows: Each piece once: as text, ``prompt`` and ``completion``, for GOLDTrainer; as ``input_ids``, with the
            prefix, and ``completion_mask`` for GKDTrainer.
        order: Which of them comes at each place.
    """

    rows: list[dict[str, Any]]
    order: list[int]

    @classmethod
    def of(cls, student: LoadedModel, teacher: LoadedModel, pieces: TextPieces, options: DistilOptions) -> Prompts:
        """Draw pieces of text by their weights; those that exceed a context are halved until both models can read them.

        Raises:
            InputError: If the text is too little.
        """
        order = by_weight(pieces.places[:, 0], options.text_weights, options.seed)
        wanted = (options.steps or _UPDATES) * options.batch
        sides, end = (student, teacher), 1  # which GOLDTrainer puts behind a text
        rows, drawn, known = list[dict[str, Any]](), list[int](), dict[int, range]()
        for place in range(wanted):
            if (number := order(place)) not in known:
                begin = len(rows)
                rows += _rows(
                    student, halved(pieces[number], lambda text: all(side.reads(text, end) for side in sides))
                )
                known[number] = range(begin, len(rows))
            drawn += known[number]
            if len(drawn) >= wanted:
                break
        if not rows:
            raise InputError("--on-policy: no piece of the text has two tokens. Give more --text")
        return cls(rows, list(islice(cycle(drawn), wanted)))

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt, with the prefix."""
        return int(max(row["completion_mask"].index(1) for row in self.rows))


def _rows(student: LoadedModel, texts: list[str]) -> Iterator[dict[str, Any]]:
    begin = [] if student.prefix is None else [student.prefix]
    for text in texts:
        cut = student.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, ends = cut["input_ids"], [end for _, end in cut["offset_mapping"]]
        if asked := min(_PROMPT, len(ids) // 2):
            mask = [0] * (len(begin) + asked) + [1] * (len(ids) - asked)
            written = {"prompt": text[: ends[asked - 1]], "completion": text[ends[asked - 1] :]}
            yield written | {"input_ids": [*begin, *ids], "completion_mask": mask}
