"""Reading what is replaced, and writing the model that replaces it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from tokensurgeon.alignment import Alignment
from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles, VocabularyTensors
from tokensurgeon.checkpoint.layout import read_config
from tokensurgeon.checkpoint.linking import Link
from tokensurgeon.checkpoint.pinning import pin_tokenizer
from tokensurgeon.checkpoint.settings import write_settings
from tokensurgeon.errors import InputError
from tokensurgeon.manifest import MANIFEST, Manifest
from tokensurgeon.pair import Side
from tokensurgeon.rows import VocabularyMatrices

__all__ = ["find_copies", "other_files", "read_matrices", "refuse_what_would_break", "write_output"]

_WEIGHTS = tuple(
    f"*.{kind}"
    for kind in (
        "safetensors", "safetensors.index.json", "bin", "bin.index.json", "gguf", "pth", "pt", "ckpt", "h5",
        "msgpack", "onnx", "ot", "tflite",
    )
)  # fmt: skip


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


def write_output(
    work: Path,
    base: Side,
    donor: Side,
    files: Checkpoint,
    layout: VocabularyTensors,
    matrices: VocabularyMatrices,
    plan: Alignment,
    content: dict[str, Any],
    dtype: str | None = None,
    link: Link = "auto",
    copies: Mapping[str, str] = MappingProxyType({}),
) -> frozenset[str]:
    """Write the base's body and files, the new rows, the donor's tokenizer, settings and manifest; no card, no report.

    Args:
        work: An empty directory.
        base: Whose body it is.
        donor: Whose tokenizer it is.
        files: The base's checkpoint.
        layout: Of the base's checkpoint.
        matrices: The output's vocabulary-sized tensors.
        plan: Provenance of every row.
        content: The manifest's; ``tokenizer_sha256`` and ``removed_settings`` are added.
        dtype: Convert all floating tensors.
        link: How shards of which nothing changes get there.
        copies: As `find_copies` gives them.

    Returns:
        The shards that are the base's own, cloned or linked.
    """
    for path in other_files(base.directory):
        if not TokenizerFiles.owns(path) and path.name not in ("config.json", "generation_config.json"):
            shutil.copyfile(path, work / path.name)
    donor.files.write(work)
    pin_tokenizer(work, str(read_config(base.directory).get("model_type", "")))
    content["tokenizer_sha256"] = TokenizerFiles.open(work).digest()
    replaced = {layout.embedding: matrices.embedding}
    if matrices.head is not None and layout.head_name is not None:
        replaced[layout.head_name] = matrices.head
    if matrices.bias is not None and layout.bias is not None:
        replaced[layout.bias] = matrices.bias
    replaced |= {name: replaced[original] for name, original in copies.items()}
    dropped = frozenset(layout.stale) - set(replaced)
    shared = files.write(work, replaced, dropped, getattr(torch, dtype) if dtype else None, link)
    new_ids: dict[int, list[int]] = {}
    for token_id in plan.anchors.tolist():
        new_ids.setdefault(int(plan.source[token_id]), []).append(token_id)
    content["removed_settings"] = write_settings(
        base.directory,
        donor.directory,
        work,
        donor.files,
        new_ids,
        plan.n_rows,
        tied=matrices.head is None,
        dtype=dtype,
    )
    Manifest.of(plan, content).write(work)
    return shared
