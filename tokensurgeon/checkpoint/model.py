"""A model opened: its files, its vocabulary and its vocabulary-sized tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles, VocabularyTensors, find_vocabulary_tensors, resolve
from tokensurgeon.checkpoint.layout import read_config
from tokensurgeon.checkpoint.manifest import MANIFEST
from tokensurgeon.checkpoint.settings import vocab_size
from tokensurgeon.errors import InputError
from tokensurgeon.transfer.rows import VocabularyMatrices
from tokensurgeon.vocabulary import Vocabulary

__all__ = [
    "Base",
    "Side",
    "describe_side",
    "find_copies",
    "open_side",
    "other_files",
    "output_rows",
    "read_matrices",
    "refuse_what_would_break",
]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models, as far as its vocabulary goes."""

    name: str
    directory: Path
    files: TokenizerFiles
    vocabulary: Vocabulary


def open_side(reference: str, weights: str) -> Side:
    """Resolve a model and read its tokenizer."""
    directory = resolve(reference, weights=weights)
    files = TokenizerFiles.open(directory)
    name = Path(reference).expanduser().resolve().name if Path(reference).expanduser().exists() else reference
    return Side(name, directory, files, files.vocabulary())


def output_rows(donor: Side, multiple: int | None) -> int:
    """Rows of the output: the donor's ``config.vocab_size``, or its tokens rounded up."""
    if multiple is not None:
        return -(-len(donor.vocabulary) // multiple) * multiple
    known = vocab_size(donor.directory) if (donor.directory / "config.json").is_file() else None
    return known or len(donor.vocabulary)


_WEIGHTS = tuple(
    f"*.{kind}"
    for kind in (
        "safetensors", "safetensors.index.json", "bin", "bin.index.json", "gguf", "pth", "pt", "ckpt", "h5",
        "msgpack", "onnx", "ot", "tflite",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Base:
    """A model that keeps its body and gets another vocabulary.

    Attributes:
        side: Its tokenizer.
        files: Its checkpoint.
        layout: The vocabulary-sized tensors in there.
        copies: As `find_copies` gives them.
    """

    side: Side
    files: Checkpoint
    layout: VocabularyTensors
    copies: Mapping[str, str]

    @classmethod
    def open(cls, reference: str, weights: str = "all", dtype: str | None = None) -> Base:
        """Resolve a model and read everything but its tensors.

        Raises:
            InputError: If it cannot get another vocabulary.
        """
        side = open_side(reference, weights)
        files = Checkpoint.open(side.directory)
        layout = find_vocabulary_tensors(side.directory, files.tensors)
        refuse_what_would_break(reference, files, layout, dtype)
        return cls(side, files, layout, find_copies(reference, files, layout))

    def matrices(self) -> VocabularyMatrices:
        """The vocabulary-sized tensors."""
        return read_matrices(self.files, self.layout)

    def described(self) -> dict[str, Any]:
        """For the manifest."""
        return describe_side(self.side.name, self.side.directory, self.side.files, self.files, self.layout)


def refuse_what_would_break(base: str, files: Checkpoint, layout: VocabularyTensors, dtype: str | None = None) -> None:
    """Checkpoints whose further vocabulary tensors would not fit, whose head is ambiguous, or that cannot be cast."""
    if dtype and read_config(files.directory).get("quantization_config"):
        raise InputError(f"{base}: its body is quantised and cannot be converted to {dtype}. Leave out --dtype")
    if layout.others:
        raise InputError(
            f"{base}: {layout.others[0]} has one row per token too, and would still be in the old order. "
            "Models with per-layer embeddings or logit biases beside the head are not supported"
        )
    for name, original in sorted(layout.stale.items()):
        if files.digest(name) == files.digest(original):
            continue
        if original == layout.bias:
            raise InputError(f"{base}: {name} and {original} are one bias, but the checkpoint holds different values")
        raise InputError(
            f"{base}: config.json says that the LM head is tied, but the checkpoint holds a different {name}. "
            "Set tie_word_embeddings to false if that head is meant, or remove the tensor"
        )


def find_copies(base: str, files: Checkpoint, layout: VocabularyTensors) -> dict[str, str]:
    """Tensors that repeat the embedding or the head, as multi-token-prediction layers store them, and which of the two.

    Raises:
        InputError: If one has the embedding's shape and other content: it would still be in the old order.
    """
    known = {files.digest(name): name for name in (layout.head, layout.embedding) if name and layout.unclaimed}
    copies = {name: known.get(files.digest(name), "") for name in layout.unclaimed}
    for name, original in copies.items():
        if not original:
            raise InputError(
                f"{base}: {name} has one row per token too, the model class does not know it, and it is no copy of "
                f"{layout.embedding}. It would still be in the old order; remove it from the checkpoint if nothing "
                "needs it"
            )
    return copies


def read_matrices(files: Checkpoint, layout: VocabularyTensors) -> VocabularyMatrices:
    """The vocabulary-sized tensors."""
    return VocabularyMatrices(
        embedding=files.read(layout.embedding),
        head=files.read(layout.head) if layout.head else None,
        bias=files.read(layout.bias) if layout.bias else None,
    )


def other_files(directory: Path) -> list[Path]:
    """A model directory's files but for weights, hidden ones, and what we write about a model."""
    return [
        path
        for path in sorted(directory.iterdir())
        if path.is_file()
        and not path.name.startswith(".")
        and path.name not in ("README.md", "report.html", MANIFEST)
        and not any(path.match(pattern) for pattern in _WEIGHTS)
    ]


def describe_side(
    name: str, directory: Path, tokenizer: TokenizerFiles, files: Checkpoint, layout: VocabularyTensors
) -> dict[str, Any]:
    """One input: its name, commit where it came from a hub, shape, and hashes of what was read."""
    tensors = [n for n in (layout.embedding, layout.head, layout.bias) if n]
    table = {n: [info.dtype, info.shape] for n, info in sorted(files.tensors.items())}
    return {
        "name": name,
        "commit": directory.name if directory.parent.name == "snapshots" else None,
        "rows": layout.rows,
        "dim": layout.dim,
        "tied": layout.tied,
        "sha256": {
            "config.json": hashlib.sha256((directory / "config.json").read_bytes()).hexdigest(),
            "tokenizer": tokenizer.digest(),
            **{n: files.digest(n) for n in tensors},
            "names, types and shapes of all tensors": hashlib.sha256(json.dumps(table).encode()).hexdigest(),
        },
    }
