"""Open a model: its files, vocabulary and vocabulary-sized tensors, each read when it is first asked for."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles, VocabularyTensors, find_vocabulary_tensors, resolve
from tokensurgeon.checkpoint.cache import shown_name
from tokensurgeon.checkpoint.foreign import taken_files
from tokensurgeon.checkpoint.layout import read_config, refuse_misfits
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.names import MANIFEST, is_weights
from tokensurgeon.checkpoint.settings import vocab_size
from tokensurgeon.checkpoint.text import read_json_if_there
from tokensurgeon.errors import InputError
from tokensurgeon.transfer.rows import VocabularyMatrices
from tokensurgeon.vocabulary import Vocabulary

__all__ = ["OpenModel", "other_files"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model on disk.

    Attributes:
        name: For people: a directory's or file's name, or a hub id.
        directory: Where it lies.
        tokenizer: Its tokenizer's files.
    """

    name: str
    directory: Path
    tokenizer: TokenizerFiles

    @classmethod
    def open(cls, reference: str, weights: str = "all") -> Self:
        """Resolve a model and read its tokenizer's files.

        Args:
            reference: Directory, ``.gguf`` file, or hub id.
            weights: Which of its weights are needed, see `tokensurgeon.checkpoint.resolve.resolve`.

        Raises:
            InputError: If there is no such model.
        """
        directory = resolve(reference, weights=weights)
        return cls(shown_name(reference), directory, TokenizerFiles.open(directory))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Its tokens as bytes and roles; it is said where the chat template is no help to find these."""
        found = self.tokenizer.vocabulary()
        if problem := found.roles.template_problem:
            how = "what opens and ends a turn is found by the names of tokens"
            log.warning("%s: the chat template cannot be used (%s); %s", self.name, problem, how)
        return found

    @cached_property
    def spec(self) -> dict[str, Any]:
        """Its ``tokenizer.json``, parsed; not to be changed."""
        found: dict[str, Any] = json.loads(self.tokenizer.tokenizer.to_str())
        return found

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token to id, added tokens included: two models with the same have rows in the same order."""
        found: dict[str, int] = self.tokenizer.tokenizer.get_vocab(with_added_tokens=True)
        return found

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``."""
        return read_config(self.directory)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Its safetensors."""
        return Checkpoint.open(self.directory)

    @cached_property
    def layout(self) -> VocabularyTensors:
        """The vocabulary-sized tensors in there."""
        return find_vocabulary_tensors(self.directory, self.checkpoint.tensors)

    @cached_property
    def nature(self) -> np.ndarray[Any, np.dtype[np.int8]] | None:
        """(rows,) what its manifest says of its rows; None without one, or where its rows are others by now.

        Raises:
            InputError: If the manifest is damaged.
        """
        manifest = Manifest.read(self.directory)
        return None if manifest is None or manifest.plan.n_rows != self.layout.rows else manifest.nature

    @cached_property
    def copies(self) -> Mapping[str, str]:
        """Tensors that repeat the embedding or the head (multi-token-prediction layers store them), and which of both.

        Raises:
            InputError: If one has the embedding's shape and other content: it would still be in the old order.
        """
        layout, digest = self.layout, self.checkpoint.digest
        known = {digest(name): name for name in (layout.head, layout.embedding) if name and layout.unclaimed}
        copies = {name: known.get(digest(name), "") for name in layout.unclaimed}
        for name, original in copies.items():
            if not original:
                raise InputError(
                    f"{self.name}: {name} has one row per token too, the model class does not know it, and it is no "
                    f"copy of {layout.embedding}. It would still be in the old order; remove it from the checkpoint if "
                    "nothing needs it"
                )
        return copies

    @property
    def vocab_size(self) -> int | None:
        """``config.vocab_size``; None without a ``config.json``, or where it says nothing."""
        return vocab_size(self.directory) if (self.directory / "config.json").is_file() else None

    def output_rows(self, multiple: int | None = None) -> int:
        """Rows of a model with this one's tokenizer: ``config.vocab_size``, or its tokens rounded up to a multiple."""
        n = len(self.vocabulary)
        return self.vocab_size or n if multiple is None else -(-n // multiple) * multiple

    def matrices(self) -> VocabularyMatrices:
        """The vocabulary-sized tensors."""
        read, layout = self.checkpoint.read, self.layout
        return VocabularyMatrices(
            embedding=read(layout.embedding),
            head=read(layout.head) if layout.head else None,
            bias=read(layout.bias) if layout.bias else None,
        )

    def checked(self, dtype: str | None = None, *, moved: bool = True) -> Self:
        """Itself, if it can get another vocabulary.

        Args:
            dtype: What its tensors would be converted to.
            moved: Whether its rows get another order; otherwise copies of the embedding may be anything.

        Raises:
            InputError: If further vocabulary tensors would not fit, its head is ambiguous, or it cannot be cast.
        """
        layout, files = self.layout, self.checkpoint
        self.refuse_misfit()
        _ = self.nature  # raises what it has to say
        if dtype and self.config.get("quantization_config"):
            raise InputError(
                f"{self.name}: its body is quantised and cannot be converted to {dtype}. Leave out --dtype"
            )
        if layout.others:
            raise InputError(
                f"{self.name}: {layout.others[0]} has one row per token too, and would still be in the old order. "
                "Models with per-layer embeddings or logit biases beside the head are not supported"
            )
        for name, original in sorted(layout.stale.items()):
            if files.digest(name) == files.digest(original):
                continue
            if original == layout.bias:
                raise InputError(
                    f"{self.name}: {name} and {original} are one bias, but the checkpoint holds different values"
                )
            raise InputError(
                f"{self.name}: config.json says that the LM head is tied, but the checkpoint holds a different {name}. "
                "Set tie_word_embeddings to false if that head is meant, or remove the tensor"
            )
        if moved:
            _ = self.copies  # raises what it has to say
        return self

    def refuse_misfit(self) -> None:
        """Refuse weights that are not of this config or not of this tokenizer.

        Raises:
            InputError: If embedding or head have other shapes than ``config.json`` asks for, there are fewer rows than
                text has tokens (added ones may lie beyond them), or ``generation_config.json`` is damaged.
        """
        read_json_if_there(self.directory / "generation_config.json")  # which is needed late
        refuse_misfits(self.directory, self.layout, self.checkpoint.tensors)
        vocabulary, rows = self.vocabulary, self.layout.rows
        beyond = [i for i in np.flatnonzero(vocabulary.canonical[rows:]) + rows if int(i) not in vocabulary.added]
        if beyond:
            first = f"{vocabulary.describe(int(beyond[0]))}, id {beyond[0]}"
            raise InputError(
                f"{self.name}: {self.layout.embedding} has {rows} rows, and the tokenizer {len(vocabulary)} ids: "
                f"{len(beyond)} of its tokens have no row (first: {first}). Tokenizer "
                "and weights are of different models"
            )

    def described(self) -> dict[str, Any]:
        """For manifests: its name, commit where it came from a hub, shape, and hashes of what was read."""
        layout, files = self.layout, self.checkpoint
        tensors = [n for n in (layout.embedding, layout.head, layout.bias) if n]
        table = {n: [info.dtype, info.shape] for n, info in sorted(files.tensors.items())}
        return {
            "name": self.name,
            "commit": self.directory.name if self.directory.parent.name == "snapshots" else None,
            "rows": layout.rows,
            "dim": layout.dim,
            "tied": layout.tied,
            "sha256": {
                "config.json": hashlib.sha256((self.directory / "config.json").read_bytes()).hexdigest(),
                "tokenizer": self.tokenizer.digest(),
                **{n: files.digest(n) for n in tensors},
                "names, types and shapes of all tensors": hashlib.sha256(json.dumps(table).encode()).hexdigest(),
            },
        }


def other_files(directory: Path) -> list[Path]:
    """A model directory's files but for weights, hidden ones, what we write about a model, and what may not be read."""
    ours = ("README.md", "report.html", MANIFEST)
    return [path for path in taken_files(directory) if path.name not in ours and not is_weights(path)]
