"""Bring every model to the same ids: those that have others are transplanted, once, into a cache."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokensurgeon.baselines import make_method
from tokensurgeon.checkpoint.cache import cache_directory, is_kept
from tokensurgeon.checkpoint.digest import file_digest
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.errors import InputError
from tokensurgeon.merging.models import Model, content_digest, open_model
from tokensurgeon.merging.rows import Kinds, kinds_of
from tokensurgeon.progress import Progress, Stage
from tokensurgeon.surgery.auto import CANDIDATES
from tokensurgeon.surgery.options import TransplantOptions
from tokensurgeon.surgery.transplant import transplant

__all__ = ["Aligned", "Owner", "align_model", "find_owner", "has_ids_of", "place_of"]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose tokenizer all models get.

    Attributes:
        reference: What `OpenModel.open` takes.
        model: The model, of which only the vocabulary is needed.
        rows: Rows of every aligned model.
        described: Hashes of what a transplant reads of it.
        grown_from: The model that it is with more tokens (`tokensurgeon.merging.union`); None where it has its own.
        kinds: What its rows are then.
    """

    reference: str
    model: OpenModel
    rows: int
    described: dict[str, Any]
    grown_from: Path | None = None
    kinds: Kinds | None = None


@dataclass(frozen=True, slots=True)
class Aligned:
    """A model in the common ids.

    Attributes:
        model: The model, as it lies on disk now: the given one, or its transplant.
        kinds: What its rows are.
        transplant: The transplant's manifest; None where the model is as it was given.
        sha256: Of the given model's files.
    """

    model: Model
    kinds: Kinds
    transplant: Manifest | None
    sha256: str


def find_owner(tokenizer: str | None, models: list[Model]) -> Owner:
    """The model whose tokenizer all get: a named one, which may be none of those that are merged, or the first."""
    known = {model.name: model for model in models}
    named = models[0] if tokenizer is None else known.get(tokenizer)
    if named is None and tokenizer is not None and "+" in tokenizer and not Path(tokenizer).expanduser().exists():
        from mergekit.common import ModelReference

        named = open_model(ModelReference.parse(tokenizer))
    reference = str(named.directory) if named is not None else str(tokenizer)
    side = OpenModel.open(reference, "vocabulary")
    return Owner(reference, side, side.output_rows(), side.described()["sha256"])


def has_ids_of(model: Model, owner: Owner) -> bool:
    """Whether a model has the owner's ids already, and as many rows."""
    return model.layout.rows == owner.rows and model.ids == owner.model.ids


def align_model(model: Model, owner: Owner, options: TransplantOptions, progress: Progress | None) -> Aligned:
    """The model itself if its ids are the owner's, otherwise its transplant from the cache, made if need be.

    Args:
        model: A model of the recipe.
        owner: Whose tokenizer it gets.
        options: How.
        progress: Called with (stage, done, total).

    Raises:
        InputError: If the model cannot be transplanted.
    """
    digest = content_digest(model.directory)
    before = Manifest.read(model.directory)
    if has_ids_of(model, owner):
        return Aligned(model, kinds_of(owner.rows, before, None), None, digest)
    grown = owner.kinds is not None and owner.grown_from == model.directory
    out = owner.model.directory if grown else _cached(model, owner, options, digest, progress)
    manifest = Manifest.read(out)
    if manifest is None:
        raise InputError(f"{out} has no tokensurgeon.json; remove it, and run the same command again")
    moved = Model(model.name, out, owner.model.tokenizer)
    kinds = owner.kinds if grown and owner.kinds is not None else kinds_of(owner.rows, before, manifest)
    return Aligned(moved, kinds, manifest, digest)


def place_of(model: Model, owner: Owner, options: TransplantOptions, digest: str) -> Path:
    """Where in the cache the transplant of a model lies, or will lie; ``digest`` is of the model's files."""
    if owner.grown_from == model.directory:
        return owner.model.directory
    texts = [file_digest(Path(name).expanduser()) for name in options.text]
    tried = [make_method(name, given) for name, given in CANDIDATES]
    how: list[Any] = [options.auto, *tried] if options.auto else [options.reconstruction()]
    asked = {**options.as_dict(), "text": texts}, [asdict(one) for one in how]
    state = [digest, owner.described, owner.rows, *asked, version("tokensurgeon")]
    key = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
    short = [re.sub(r"[^\w.-]+", "-", name).strip("-") or "model" for name in (model.short, owner.model.name)]
    return cache_directory() / "merge" / f"{short[0]}-with-{short[1]}-tokenizer-{key}"


def _cached(model: Model, owner: Owner, options: TransplantOptions, digest: str, progress: Progress | None) -> Path:
    from filelock import FileLock

    out = place_of(model, owner, options, digest)
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.parent / f".{out.name.rpartition('-')[2]}.lock"):
        if not is_kept(out):
            transplant(str(model.directory), owner.reference, out, options, progress=_named(progress, model.short))
    return out


def _named(progress: Progress | None, name: str) -> Progress | None:
    """Stages of several transplants in one display."""
    if progress is None:
        return None
    return lambda stage, done, total: progress(Stage.TRANSPLANT.of(f"{name}: {stage}"), done, total)
