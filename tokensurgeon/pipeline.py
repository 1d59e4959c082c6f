"""The pipeline: two models in, one out. The one place where the rooms meet."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.alignment import Alignment, Provenance, align
from tokensurgeon.calibrate import calibrate
from tokensurgeon.checkpoint import (
    Checkpoint,
    TokenizerFiles,
    VocabularyTensors,
    find_vocabulary_tensors,
    resolve,
)
from tokensurgeon.checkpoint.settings import vocab_size, write_settings
from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.config import TransplantOptions
from tokensurgeon.errors import InputError, VerificationError
from tokensurgeon.evaluation.model import load_model, pick_device
from tokensurgeon.evaluation.score import HeadStates, collect_states
from tokensurgeon.evaluation.texts import python_text, split_bytes
from tokensurgeon.heldout import score_held_out
from tokensurgeon.manifest import Manifest
from tokensurgeon.reconstruct import Resources
from tokensurgeon.reconstruct.subtoken import Subtoken
from tokensurgeon.record import describe_run, describe_side, describe_solution
from tokensurgeon.report.alignment import alignment_summary
from tokensurgeon.report.card import model_card
from tokensurgeon.rows import NewRows, VocabularyMatrices, atom_ids, build_rows, drop_rowless
from tokensurgeon.segmentation import base_pieces
from tokensurgeon.sharding import own_device, rank
from tokensurgeon.states import suppressing_row
from tokensurgeon.verify import Check, verify
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.schemes import SchemeDifference, compare_schemes

__all__ = ["TransplantReport", "align_models", "default_output", "transplant"]

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
_WEIGHTS = tuple(
    f"*.{kind}"
    for kind in (
        "safetensors", "safetensors.index.json", "bin", "bin.index.json", "gguf", "pth", "pt", "ckpt", "h5",
        "msgpack", "onnx", "ot", "tflite",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models, as far as its vocabulary goes."""

    name: str
    directory: Path
    files: TokenizerFiles
    vocabulary: Vocabulary


@dataclass(frozen=True, slots=True)
class TransplantReport:
    """What was done and what it cost, as plain data around an alignment.

    Attributes:
        out: The written model; None after a dry run, and on ranks that do not write.
        base: The side that keeps its body.
        donor: The side that gives the tokenizer.
        alignment: Provenance of every row.
        summary: The alignment as plain data, with examples, as `summarise` gives it.
        content: The manifest's content.
        checks: Invariants verified on the written model.
    """

    out: Path | None
    base: Side
    donor: Side
    alignment: Alignment
    summary: dict[str, Any]
    content: dict[str, Any]
    checks: list[Check]


def default_output(base: str, donor: str) -> Path:
    """A directory in the current one, named after both models."""

    def short(reference: str) -> str:
        name = Path(reference.partition("@")[0]).name
        return name.removesuffix(".gguf") or "model"

    return Path(f"{short(base)}-with-{short(donor)}-tokenizer")


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


def align_models(
    base: str, donor: str, options: TransplantOptions | None = None
) -> tuple[Side, Side, Alignment, list[SchemeDifference]]:
    """Align two models by their tokenizers alone; no weights are read or fetched."""
    options = options or TransplantOptions()
    left, right = open_side(base, "none"), open_side(donor, "none")
    rows = output_rows(right, options.pad_to_multiple_of)
    aligned = align(left.vocabulary, right.vocabulary, n_rows=rows, overrides=options.map)
    return left, right, aligned, compare_schemes(left.vocabulary, right.vocabulary)


def summarise(
    base: Side,
    donor: Side,
    alignment: Alignment,
    schemes: Sequence[SchemeDifference],
    texts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What an alignment says about a pair, as plain data; ``texts`` adds how much of them anchors cover."""
    summary = alignment_summary(base.vocabulary, donor.vocabulary, alignment, schemes, texts or {})
    return summary | {"bos": {"base": base.files.adds_bos(), "donor": donor.files.adds_bos()}}


def transplant(
    base: str,
    donor: str,
    out: Path | str | None = None,
    options: TransplantOptions | None = None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> TransplantReport:
    """Give ``base`` the tokenizer of ``donor`` and write the result.

    Where torch.distributed is initialised, all ranks must call this: each solves its share, rank 0 writes,
    and the others return a report without ``out``.

    Args:
        base: Model that keeps its body: directory, ``.gguf`` file, or hub id.
        donor: Model that gives the tokenizer.
        out: Output directory; by default named after both.
        options: See `TransplantOptions`.
        overwrite: Replace an output that exists.
        dry_run: Align and plan only; nothing is written.
        progress: Called with (stage, done, total) during long stages.

    Raises:
        InputError: If the input cannot be used.
        VerificationError: If the written model breaks an invariant; nothing is left behind.
    """
    options = options or TransplantOptions()
    base, donor = str(base), str(donor)
    target = (Path(out) if out is not None else default_output(base, donor)).expanduser().absolute()
    if not dry_run:
        check_target(target, overwrite, (base, donor))
    started = time.perf_counter()
    left, right = open_side(base, "all"), open_side(donor, "vocabulary")
    base_files, donor_files = Checkpoint.open(left.directory), Checkpoint.open(right.directory, partial=True)
    base_layout = find_vocabulary_tensors(left.directory, base_files.tensors)
    donor_layout = find_vocabulary_tensors(right.directory, donor_files.tensors)
    _refuse_what_would_break(base, base_files, base_layout)
    if options.untie and base_layout.head_name is None:
        raise InputError(f"{base}: this architecture has no LM head that could be untied")
    plan = align(
        left.vocabulary,
        right.vocabulary,
        n_rows=output_rows(right, options.pad_to_multiple_of),
        base_rows=base_layout.rows,
        donor_rows=donor_layout.rows,
        overrides=options.map,
    )
    method = options.reconstruction()
    n_atoms, k = int((plan.anchors < donor_layout.rows).sum()), getattr(method, "k", 1)
    if k > n_atoms:
        raise InputError(f"k={k} exceeds the {n_atoms} anchors that the two models share. Choose a smaller --k")
    schemes = compare_schemes(left.vocabulary, right.vocabulary)
    content = describe_run(options) | {
        "base": describe_side(left.name, left.directory, left.files, base_files, base_layout),
        "donor": describe_side(right.name, right.directory, right.files, donor_files, donor_layout),
    }
    if dry_run:
        summary = summarise(left, right, plan, schemes)
        return TransplantReport(None, left, right, plan, summary, content | summary, [])

    base_matrices, donor_matrices = _matrices(base_files, base_layout), _matrices(donor_files, donor_layout)
    plan = drop_rowless(plan, donor_matrices)
    device, writes = own_device(pick_device(options.device)), rank() == 0
    resources = Resources(device, options.exact, options.memory_bytes, options.seed)
    by_text = isinstance(method, Subtoken)
    new_ids = plan.ids(Provenance.RECONSTRUCTED).tolist()
    dead = plan.ids(Provenance.UNREACHABLE, Provenance.PADDING)
    silence = len(dead) > 0 and base_layout.bias is None  # a biased head is silenced by its bias
    states = _states(left, device, progress) if writes and (options.calibrate or silence) else None
    rows = build_rows(
        base_matrices,
        donor_matrices,
        plan,
        method=method,
        pieces=base_pieces(left.vocabulary, right.vocabulary, new_ids, base_layout.rows) if by_text else None,
        untie=options.untie,
        suppressing=suppressing_row(states.states, states.log_normaliser, len(dead)) if states and silence else None,
        resources=resources,
        progress=progress,
    )
    if options.calibrate and states is not None:
        calibrate(rows.matrices, base_matrices, donor_matrices, plan, states.states, states.log_normaliser)
    atoms = torch.from_numpy(atom_ids(plan, donor_matrices))
    known = base_matrices.embedding[torch.from_numpy(plan.source)[atoms]]
    held_out = None
    if not by_text:  # an anchor's text is the anchor
        donor_rows = donor_matrices.embedding[atoms]
        held_out = score_held_out(donor_rows, known, base_matrices.embedding, method, resources)
    if not writes:
        return TransplantReport(None, left, right, plan, {}, content, [])
    summary = summarise(left, right, plan, schemes)
    content |= describe_solution(summary, rows, held_out)
    with staged(target, overwrite) as work:
        _write(work, left, right, base_files, base_layout, rows, plan, options, content)
        if progress is not None:
            progress("verify", 0, 1)
        checks = verify(work, left.directory, right.directory)
        failed = [check for check in checks if not check.ok]
        if failed:
            raise VerificationError(
                "the written model was discarded, because it fails: "
                + "; ".join(f"{c.name} ({c.detail})" for c in failed)
            )
        content["verified"] = {check.name: check.detail for check in checks}
        content["seconds"] = round(time.perf_counter() - started, 1)
        Manifest.of(plan, content).write(work)
        report = TransplantReport(target, left, right, plan, summary, content, checks)
        (work / "README.md").write_text(model_card(report.content))
    return report


def _refuse_what_would_break(base: str, files: Checkpoint, layout: VocabularyTensors) -> None:
    """Checkpoints whose further vocabulary tensors would no longer fit, or whose head is ambiguous."""
    if layout.others:
        raise InputError(
            f"{base}: {layout.others[0]} has one row per token too, and would still be in the old order. "
            "Models with per-layer embeddings are not supported"
        )
    for name in sorted(layout.stale):
        if files.digest(name) != files.digest(layout.embedding):
            raise InputError(
                f"{base}: config.json says that the LM head is tied, but the checkpoint holds a different {name}. "
                "Set tie_word_embeddings to false if that head is meant, or remove the tensor"
            )


def _matrices(files: Checkpoint, layout: VocabularyTensors) -> VocabularyMatrices:
    return VocabularyMatrices(
        embedding=files.read(layout.embedding),
        head=files.read(layout.head) if layout.head else None,
        bias=files.read(layout.bias) if layout.bias else None,
    )


def _states(base: Side, device: torch.device, progress: Progress | None) -> HeadStates:
    """What the base's LM head sees on text that every Python carries."""
    if progress is not None:
        progress("states", 0, 1)
    loaded = load_model(base.directory, device)
    return collect_states(loaded.model, loaded.encode, loaded.prefix, split_bytes(python_text(16_384)))


def _write(
    work: Path,
    base: Side,
    donor: Side,
    files: Checkpoint,
    layout: VocabularyTensors,
    rows: NewRows,
    plan: Alignment,
    options: TransplantOptions,
    content: dict[str, Any],
) -> None:
    for path in sorted(base.directory.iterdir()):
        foreign = TokenizerFiles.owns(path) or any(path.match(pattern) for pattern in _WEIGHTS)
        written = path.name in ("config.json", "generation_config.json", "README.md", "tokensurgeon.json")
        if path.is_file() and not foreign and not written and not path.name.startswith("."):
            shutil.copyfile(path, work / path.name)
    donor.files.write(work)
    content["tokenizer_sha256"] = TokenizerFiles.open(work).digest()
    replaced = {layout.embedding: rows.matrices.embedding}
    if rows.matrices.head is not None and layout.head_name is not None:
        replaced[layout.head_name] = rows.matrices.head
    if rows.matrices.bias is not None and layout.bias is not None:
        replaced[layout.bias] = rows.matrices.bias
    dtype = getattr(torch, options.dtype) if options.dtype else None
    files.write(work, replaced, layout.stale - set(replaced), dtype)
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
        tied=rows.matrices.head is None,
        dtype=options.dtype,
    )
    Manifest.of(plan, content).write(work)
