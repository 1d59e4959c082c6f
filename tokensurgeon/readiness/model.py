"""Read what the rules of other tools look at: config, tokenizer, shapes. No weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.errors import InputError
from tokensurgeon.gguf.read import read_gguf_vocabulary
from tokensurgeon.gguf.vocabulary import GgufVocabulary, gguf_vocabulary

__all__ = ["Candidate", "Rule", "open_candidate"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a tool, tried on a model.

    Attributes:
        name: What must hold.
        ok: Whether it does.
        detail: What was found.
        remedy: What to do where it does not hold.
        source: Where the tool says so; "assumed" where it takes it for granted and computes nonsense otherwise.
        must: Whether nothing works without it; otherwise it is a warning.
    """

    name: str
    ok: bool
    detail: str
    remedy: str
    source: str
    must: bool = True


class Candidate(OpenModel):
    """A model that another tool is to use, by the name that the user gives it."""

    @cached_property
    def fault(self) -> str:
        """Why transformers cannot build the model; empty if it can."""
        try:
            _ = self.layout
        except InputError as error:
            return str(error)
        return ""

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensors of the checkpoint, by name."""
        return {name: info.shape for name, info in self.checkpoint.tensors.items()}

    @cached_property
    def text_config(self) -> Mapping[str, Any]:
        """The part of the config that describes the language model."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def rows(self) -> int | None:
        """Rows of the embedding; what the config says where the embedding cannot be found."""
        return self.vocab_size if self.fault else self.layout.rows

    @cached_property
    def gguf(self) -> GgufVocabulary | str:
        """The vocabulary in GGUF form, or why there is none; that of the file itself where MODEL is a GGUF file."""
        path = Path(self.name).expanduser()
        try:
            if path.is_file():
                return read_gguf_vocabulary(path)
            return gguf_vocabulary(self.tokenizer, max(self.rows or 0, max(self.ids.values(), default=-1) + 1))
        except InputError as error:
            return str(error)


def open_candidate(reference: str, weights: str = "vocabulary") -> Candidate:
    """Open a model for `check`.

    Args:
        reference: Directory, ``.gguf`` file or hub id.
        weights: ``vocabulary``, or ``all`` where every tensor's shape is wanted.

    Raises:
        InputError: If there is no such model, or it has no tokenizer or no weights.
    """
    candidate = replace(Candidate.open(reference, weights), name=reference)
    _ = candidate.config, candidate.checkpoint  # raise what they have to say
    return candidate
