"""A model as the rules of other tools see it: config, tokenizer, shapes. No weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles, VocabularyTensors, find_vocabulary_tensors, resolve
from tokensurgeon.checkpoint.layout import read_config
from tokensurgeon.checkpoint.settings import vocab_size
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
    """

    name: str
    ok: bool
    detail: str
    remedy: str
    source: str


@dataclass(frozen=True)
class Candidate:
    """A model that shall be used by another tool.

    Attributes:
        name: As the user gave it.
        directory: Where it lies.
        config: ``config.json``.
        files: Its tokenizer.
        shapes: Tensors of the checkpoint, by name.
        layout: The vocabulary-sized ones; None where transformers cannot build the model.
        fault: Why it cannot.
    """

    name: str
    directory: Path
    config: Mapping[str, Any]
    files: TokenizerFiles
    shapes: Mapping[str, tuple[int, ...]]
    layout: VocabularyTensors | None
    fault: str

    @cached_property
    def ids(self) -> dict[str, int]:
        """Every token and its id."""
        found: dict[str, int] = self.files.tokenizer.get_vocab(with_added_tokens=True)
        return found

    @cached_property
    def text_config(self) -> Mapping[str, Any]:
        """The part of the config that describes the language model."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def vocab_size(self) -> int | None:
        """``config.vocab_size``."""
        return vocab_size(self.directory)

    @property
    def rows(self) -> int | None:
        """Rows of the embedding; what the config says where the embedding cannot be found."""
        return self.layout.rows if self.layout else self.vocab_size

    @cached_property
    def gguf(self) -> GgufVocabulary | str:
        """The vocabulary in GGUF form, or why there is none; that of the file itself where MODEL is a GGUF file."""
        path = Path(self.name).expanduser()
        try:
            if path.is_file():
                return read_gguf_vocabulary(path)
            return gguf_vocabulary(self.files, max(self.rows or 0, max(self.ids.values(), default=-1) + 1))
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
    directory = resolve(reference, weights=weights)
    config = read_config(directory)
    checkpoint = Checkpoint.open(directory)
    try:
        layout, fault = find_vocabulary_tensors(directory, checkpoint.tensors), ""
    except InputError as error:
        layout, fault = None, str(error)
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    return Candidate(reference, directory, config, TokenizerFiles.open(directory), shapes, layout, fault)
