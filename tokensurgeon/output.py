"""Reading what is replaced, and writing the model that replaces it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.alignment import Alignment
from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles, VocabularyTensors, find_vocabulary_tensors
from tokensurgeon.checkpoint.layout import read_config
from tokensurgeon.checkpoint.linking import Link
from tokensurgeon.checkpoint.pinning import pin_tokenizer
from tokensurgeon.checkpoint.settings import write_settings
from tokensurgeon.errors import InputError
from tokensurgeon.manifest import MANIFEST, Manifest
from tokensurgeon.pair import Side, open_side
from tokensurgeon.record import describe_side
from tokensurgeon.rows import VocabularyMatrices
from tokensurgeon.verify import Check, accepted, verify

__all__ = ["Base", "find_copies", "other_files", "read_matrices", "refuse_what_would_break", "seal", "write_output"]

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


def write_output(
    work: Path,
    base: Base,
    donor: Side,
    matrices: VocabularyMatrices,
    plan: Alignment,
    content: dict[str, Any],
    dtype: str | None = None,
    link: Link = "auto",
) -> frozenset[str]:
    """Write the base's body and files, the new rows, the donor's tokenizer, settings and manifest; no card, no report.

    Args:
        work: An empty directory.
        base: Whose body it is.
        donor: Whose tokenizer it is.
        matrices: The output's vocabulary-sized tensors.
        plan: Provenance of every row.
        content: The manifest's; ``tokenizer_sha256``, ``removed_settings`` and ``linked`` are added.
        dtype: Convert all floating tensors.
        link: How shards of which nothing changes get there.

    Returns:
        The shards that are the base's own, cloned or linked.
    """
    directory, layout = base.side.directory, base.layout
    for path in other_files(directory):
        if not TokenizerFiles.owns(path) and path.name not in ("config.json", "generation_config.json"):
            shutil.copyfile(path, work / path.name)
    donor.files.write(work)
    pin_tokenizer(work, str(read_config(directory).get("model_type", "")))
    content["tokenizer_sha256"] = TokenizerFiles.open(work).digest()
    replaced = {layout.embedding: matrices.embedding}
    if matrices.head is not None and layout.head_name is not None:
        replaced[layout.head_name] = matrices.head
    if matrices.bias is not None and layout.bias is not None:
        replaced[layout.bias] = matrices.bias
    replaced |= {name: replaced[original] for name, original in base.copies.items()}
    dropped = frozenset(layout.stale) - set(replaced)
    shared = base.files.write(work, replaced, dropped, getattr(torch, dtype) if dtype else None, link)
    content["linked"] = sorted(name for name in shared if (work / name).samefile(directory / name))
    new_ids: dict[int, list[int]] = {}
    for token_id in plan.anchors.tolist():
        new_ids.setdefault(int(plan.source[token_id]), []).append(token_id)
    content["removed_settings"] = write_settings(
        directory,
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


def seal(
    work: Path,
    base: Side,
    donor: Side,
    plan: Alignment,
    content: dict[str, Any],
    shared: frozenset[str],
    started: float,
    progress: Callable[[str, int, int], None] | None,
) -> list[Check]:
    """Verify what `write_output` wrote, and say so in its manifest.

    Args:
        work: Where it lies.
        base: Whose body it is.
        donor: Whose tokenizer it is.
        plan: Provenance of every row.
        content: The manifest's; ``not_run`` says why the model is not run; ``verified`` and ``seconds`` are added.
        shared: As `write_output` returned it.
        started: When the work began, by ``time.perf_counter``.
        progress: Called with (stage, done, total).

    Raises:
        VerificationError: If the model breaks an invariant; it must not stay.
    """
    if progress is not None:
        progress("verify", 0, 1)
    checks = verify(work, base.directory, donor.directory, unrun=content["not_run"], shared=shared)
    content["verified"] = accepted(checks)
    content["seconds"] = round(time.perf_counter() - started, 1)
    Manifest.of(plan, content).write(work)
    return checks
