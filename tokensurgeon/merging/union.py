"""Give one model's tokenizer the tokens of the others: a union of vocabularies, in the first one's ids."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any

from filelock import FileLock

from tokensurgeon.checkpoint.cache import cache_directory, is_kept
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.evaluation.texts import python_text
from tokensurgeon.merging.align import Owner
from tokensurgeon.merging.models import Model, content_digest
from tokensurgeon.merging.recipe import Recipe
from tokensurgeon.merging.rows import followed, kinds_of
from tokensurgeon.progress import Progress
from tokensurgeon.surgery.extend import Growth, grow
from tokensurgeon.surgery.options import ExtendOptions, TransplantOptions
from tokensurgeon.vocabulary.edit.add import given_tokens

__all__ = ["Missing", "grown_owner", "missing_tokens"]

_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
"""Flags of a token that a recipe names and no model has, as mergekit adds it."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What one vocabulary has and another lacks.

    Attributes:
        texts: Of tokens that come out of text.
        special: Literals of control tokens.
        plain: Literals of other added tokens, with their flags.
        bytes_only: How many tokens are parts of characters, which no text can be given for.
    """

    texts: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    plain: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    bytes_only: int = 0

    def __len__(self) -> int:
        """How many they are."""
        return len(self.texts) + len(self.special) + len(self.plain) + self.bytes_only


def missing_tokens(has: OpenModel, lacks: OpenModel) -> Missing:
    """The tokens of ``has`` that ``lacks`` does not have; those that never come out are none."""
    theirs, ours = has.vocabulary, lacks.vocabulary
    known, literals = ours.text_ids(), ours.literal_ids()
    entries = {token["id"]: token for token in has.spec["added_tokens"]}
    texts, special, plain, bytes_only = [], [], {}, 0
    for token_id, key in enumerate(theirs.keys[: has.layout.rows]):
        piece = theirs.pieces[token_id]
        if key is None or piece is None or not theirs.canonical[token_id] or piece.encode() in literals:
            continue
        entry = entries.get(token_id)
        if not key.is_text or (entry is not None and entry["special"]):
            special.append(piece)
        elif key.data in known:
            continue
        elif entry is not None and piece.strip():
            plain[piece] = {name: entry[name] for name in _PLAIN}
        else:
            try:
                texts.append(key.data.decode())
            except UnicodeDecodeError:
                bytes_only += 1
    return Missing(texts, special, plain, bytes_only)


def grown_owner(owner: Owner, read: Recipe, models: Sequence[Model], progress: Progress | None) -> Owner:
    """The owner with the tokens that the recipe wants besides its own; itself where it has them all.

    New tokens are joins that come after all of its own (`tokensurgeon.surgery.extend`), so that a text is cut as by
    the owner before its tokens are joined, and every text in one way only. Each step is kept in the cache.

    Args:
        owner: Whose ids stay.
        read: The recipe.
        models: Of the recipe; with a union, their tokens are added in this order.
        progress: Called with (stage, done, total).
    """
    if not read.union and owner.rows % (read.multiple or 1) == 0 and read.tokens.keys() <= owner.model.ids.keys():
        return owner
    chain = [OpenModel.open(owner.reference).checked()]
    for other in models if read.union else ():
        found = missing_tokens(other, chain[-1])
        if found.texts or found.special or found.plain:
            chain.append(_grown(chain[-1], other, found, read.options, progress))
    plain = {token: _PLAIN for token in read.tokens if token not in chain[-1].ids}
    rows = chain[-1].layout.rows
    if plain or rows % (read.multiple or 1):
        chain.append(_grown(chain[-1], None, Missing(plain=plain), read.options, progress, read.multiple))
    if len(chain) == 1:
        return owner
    grown = chain[-1]
    kinds = kinds_of(chain[0].layout.rows, Manifest.read(chain[0].directory), None)
    for one in chain[1:]:
        manifest = Manifest.read(one.directory)
        assert manifest is not None
        kinds = followed(kinds, manifest)
    named = replace(grown, name=f"{owner.model.name}, and more tokens")
    own = OpenModel.open(str(grown.directory), "vocabulary")
    return Owner(str(grown.directory), named, grown.layout.rows, own.described()["sha256"], chain[0].directory, kinds)


def _grown(
    left: OpenModel,
    other: Model | None,
    found: Missing,
    options: TransplantOptions,
    progress: Progress | None,
    multiple: int | None = None,
) -> OpenModel:
    """The model with found tokens, from the cache; made if need be."""
    asked = _options(other, found, options)
    digests = [content_digest(model.directory) for model in (left, other) if model is not None]
    how = asked.as_dict(), asdict(asked.reconstruction())
    state = [digests, *how, {t: dict(f) for t, f in found.plain.items()}, multiple, version("tokensurgeon")]
    key = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
    short = re.sub(r"[^\w.-]+", "-", re.sub(r"(-grown-[0-9a-f]{16})?$", "", left.directory.name))
    out = cache_directory() / "merge" / f"{short}-grown-{key}"
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.parent / f".{key}.lock"):
        if not is_kept(out):
            additions = given_tokens(left.spec, left.tokenizer.plain(), found.texts, refused=[])
            growth = Growth(additions, found.plain, multiple or 1, lenient=True)
            grow(left, out, growth, asked, [python_text()], overwrite=False, progress=progress)
    return OpenModel.open(str(out))


def _options(other: Model | None, found: Missing, options: TransplantOptions) -> ExtendOptions:
    """How the rows of new tokens are made: as a transplant makes them."""
    special = dict.fromkeys(found.special, "")
    if other is None:
        return ExtendOptions("subtoken", tokens="", special=special)
    auto = options.auto is not None
    by_donor = auto or options.reconstruction().needs == "donor"
    return ExtendOptions(
        "omp" if auto else options.method,
        None if auto else options.k,
        {} if auto else options.method_options,
        options.device,
        options.exact,
        options.memory,
        seed=options.seed,
        tokens=str(other.directory),
        donor=str(other.directory) if by_donor else None,
        special=special,
    )
