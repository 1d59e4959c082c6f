"""Take tokens away: keep what some text needs, and every token that those are merged from."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokensurgeon.alignment import Alignment, RowPlan
from tokensurgeon.alignment.summary import CountedText
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.room import refuse_no_room
from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.errors import InputError, VerificationError
from tokensurgeon.evaluation.policy import VERIFY, why_not_run
from tokensurgeon.evaluation.texts import Text, open_texts
from tokensurgeon.progress import Clock, Progress, Stage
from tokensurgeon.report.markdown import code
from tokensurgeon.surgery.own_tokenizer import changed_model, read_lines, refuse_other_texts, write_pages
from tokensurgeon.surgery.pair import summarise
from tokensurgeon.surgery.record import describe_run
from tokensurgeon.surgery.write import finish, write_output
from tokensurgeon.transfer.rows import VocabularyMatrices
from tokensurgeon.vocabulary.edit.drop import filled_ids, needed_ids, trimmed_spec
from tokensurgeon.vocabulary.streams import Counts, encoded_parts

__all__ = ["TrimReport", "trim"]


@dataclass(frozen=True, slots=True)
class TrimReport:
    """What was kept.

    Attributes:
        out: The written model.
        before: Tokens before.
        after: Tokens after.
        needed: Of these, those that the text, byte coverage and special tokens ask for.
        parameters_saved: By embedding and head together.
        content: The manifest's content.
    """

    out: Path
    before: int
    after: int
    needed: int
    parameters_saved: int
    content: dict[str, Any]


def trim(
    model: str,
    text: Sequence[Path | str],
    out: Path | str,
    *,
    size: int | None = None,
    keep: Path | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrimReport:
    """Write a model that knows only the tokens that some text needs.

    The text is encoded as before, token by token, and every other text still has an encoding. Kept rows are
    bit-identical, so that logits on kept ids are too.

    Args:
        model: Directory, ``.gguf`` file, or hub id.
        text: Files in UTF-8. They are read in parts, twice, and may be larger than the memory.
        out: Output directory.
        size: Fill up to this many tokens with those of lowest id.
        keep: A file with one token (or text) per line that is kept as well.
        overwrite: Replace an output that exists.
        progress: Called with (stage, done, total).

    Raises:
        InputError: If the text needs more than ``size`` tokens, or the tokenizer cannot be trimmed.
        VerificationError: If the trimmed tokenizer or model is not what it must be; nothing is left behind.

    Example:
        >>> import tokensurgeon
        >>> report = tokensurgeon.trim("base", ["text.txt"], "out")
        >>> report.after < report.before
        True
    """
    if not text:
        raise InputError("trim needs a text that shows which tokens are needed. Give --text FILE")
    clock = Clock()
    target = Path(out).expanduser().absolute()
    check_target(target, overwrite, (model,))
    left = OpenModel.open(model).checked()
    layout = left.layout
    texts = open_texts([Path(name) for name in text])
    spec = left.spec
    read = {name: _read(left, given.telling(progress)) for name, given in texts.items()}
    used = _named(left).union(*(np.flatnonzero(of.counts).tolist() for of in read.values()))
    if keep is not None:
        used |= _asked_for(keep, left)
    needed = needed_ids(spec, used)
    if size is not None and size < len(needed):
        raise InputError(f"--size {size}: the text needs {len(needed)} tokens. Give at least that, or less text")
    kept = sorted(needed if size is None else filled_ids(spec, needed, size, layout.rows))
    if kept[-1] >= layout.rows:
        what = left.vocabulary.describe(kept[-1])
        raise InputError(f"{model}: token {what} (id {kept[-1]}) is needed, and the embedding has {layout.rows} rows")
    refuse_no_room(target, left, len(kept))
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-trim-") as place, staged(target, overwrite) as work:
        new_ids = {old: i for i, old in enumerate(kept)}
        right = changed_model(left, trimmed_spec(spec, kept), new_ids, Path(place), "trimmed")
        counted = {}
        for name, given in texts.items():
            again = _read(right, given.telling(progress, Stage.COMPARE), kept)
            if again.digest != read[name].digest:
                raise VerificationError(f"the trimmed tokenizer encodes {name} otherwise than before")
            counted[name] = CountedText(int(read[name].counts.sum()), again.counts)
        refuse_other_texts(left, right, "trimmed")
        plan, described = RowPlan.kept(kept), left.described()
        summary = summarise(left, right, Alignment(plan, {}, ()), [], counted)
        options = {"text": [str(name) for name in text], "size": size, "keep": None if keep is None else str(keep)}
        content = describe_run(options, {"name": "trim"}) | {
            "base": described, "donor": described | {"name": right.name},
            "held_out": None, "not_run": why_not_run(left.directory, left.checkpoint, layout, None, flag=VERIFY),
            "needed": len(needed),
        } | summary  # fmt: skip
        shared = write_output(work, left, right, _rows(left.matrices(), kept), plan, content)
        finish(work, left, right, plan, content, shared, clock, progress)
        what = _sentences(left.name, len(kept), len(left.vocabulary))
        write_pages(work, content, summary, f"{left.name} with fewer tokens", what)
    matrices = 1 if layout.tied else 2
    saved = (layout.rows - len(kept)) * layout.dim * matrices
    return TrimReport(target, len(left.vocabulary), len(kept), len(needed), saved, content)


def _named(model: OpenModel) -> set[int]:
    """Ids that have a role, or that the chat template writes."""
    template, pieces = model.tokenizer.chat_template or "", model.vocabulary.pieces
    named = {i for i in model.vocabulary.added if (pieces[i] or "").strip(" ▁\n\t") and (pieces[i] or "") in template}
    return named | model.vocabulary.roles.of() | set(model.tokenizer.special_ids().values())


def _asked_for(path: Path | str, model: OpenModel) -> set[int]:
    literal = {piece: i for i, piece in enumerate(model.vocabulary.pieces) if piece is not None}
    found: set[int] = set()
    for line in read_lines("--keep", path):
        found |= {literal[line]} if line in literal else set(model.vocabulary.encode(line))
    return found


@dataclass(frozen=True, slots=True)
class _Read:
    """How often each id of a tokenizer occurs in a text, and the SHA-256 of all of them, as the old ones, in a row."""

    counts: Counts
    digest: bytes


def _read(model: OpenModel, text: Text, old_ids: Sequence[int] | None = None) -> _Read:
    """Encode a text; ``old_ids`` are what a trimmed tokenizer's ids were before."""
    counts, sha = np.zeros(len(model.vocabulary), dtype=np.int64), hashlib.sha256()
    old = np.arange(len(counts)) if old_ids is None else np.array(old_ids, dtype=np.int64)
    for ids in encoded_parts(model.vocabulary.encode, text):
        some = np.array(ids, dtype=np.int64)
        counts += np.bincount(some, minlength=len(counts))
        sha.update(old[some].tobytes())
    return _Read(counts, sha.digest())


def _rows(matrices: VocabularyMatrices, kept: Sequence[int]) -> VocabularyMatrices:
    ids = torch.tensor(kept)
    chosen = [None if m is None else m[ids] for m in (matrices.embedding, matrices.head, matrices.bias)]
    return VocabularyMatrices(*chosen)  # type: ignore[arg-type]


def _sentences(model: str, after: int, before: int) -> str:
    return (
        f"{after:,} of the {before:,} tokens of {code(model)}, with their rows, by tokensurgeon trim. The text that "
        "they were chosen by is encoded as before; other text takes more tokens. `tokensurgeon revert` puts the "
        "others back."
    )
