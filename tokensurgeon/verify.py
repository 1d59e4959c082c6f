"""The invariants of a transplanted model, checked on what was really written."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokensurgeon.alignment import Ids, Provenance
from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles, VocabularyTensors, find_vocabulary_tensors
from tokensurgeon.checkpoint.layout import read_config
from tokensurgeon.checkpoint.settings import vocab_size
from tokensurgeon.errors import InputError, VerificationError
from tokensurgeon.evaluation.model import LoadedModel, load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.texts import python_text, split_bytes
from tokensurgeon.finite import damaged_rows
from tokensurgeon.manifest import Manifest

__all__ = ["DEAD_MASS_LIMIT", "Check", "verify"]

DEAD_MASS_LIMIT = 1e-4
_BLOCK = 4096
_SAMPLES = (
    "The quick brown fox jumps over 13 lazy dogs.\n\n\tIt cost $4.50, naïve café — 日本語 🙂",
    "def f(x):\n    return {'a': [1, 2, x ** 2]}  # done\n",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant: its name, whether it holds, and what was seen."""

    name: str
    ok: bool
    detail: str


def verify(
    out: Path,
    base: Path,
    donor: Path | None = None,
    *,
    unrun: str | None = None,
    shared: frozenset[str] = frozenset(),
) -> list[Check]:
    """Check a transplanted model against its base (and its donor's tokenizer, if given).

    Args:
        out: The transplanted model, with its manifest.
        base: The base's directory.
        donor: The donor's directory; without it, the tokenizer is only checked against itself.
        unrun: Why the model is not to be run, see `tokensurgeon.body`; None runs it.
        shared: Names of shards that were cloned a moment ago, and need not be read to know that they are the same.

    Returns:
        All checks, failed ones included.

    Raises:
        InputError: If ``out`` has no manifest, or one of the directories is not a model.
    """
    manifest = Manifest.read(out)
    if manifest is None:
        raise InputError(f"{out} has no tokensurgeon.json, so it was not written by tokensurgeon")
    new, old = Checkpoint.open(out), Checkpoint.open(base)
    new_layout = find_vocabulary_tensors(out, new.tensors)
    old_layout = find_vocabulary_tensors(base, old.tensors)
    checks = list(_tensors(new, old, new_layout, old_layout, manifest, shared))
    checks += list(_tokenizer(out, donor, manifest))
    if all(check.ok for check in checks):
        checks += list(_forward(out, manifest) if unrun is None else _tokenizer_alone(out, unrun))
    return checks


def accepted(checks: list[Check]) -> dict[str, str]:
    """The details of all checks by name, for the manifest.

    Raises:
        VerificationError: If one failed; what was written must not stay.
    """
    failed = [check for check in checks if not check.ok]
    if failed:
        raise VerificationError(
            "the written model was discarded, because it fails: " + "; ".join(f"{c.name} ({c.detail})" for c in failed)
        )
    return {check.name: check.detail for check in checks}


def _tensors(
    new: Checkpoint,
    old: Checkpoint,
    new_layout: VocabularyTensors,
    old_layout: VocabularyTensors,
    manifest: Manifest,
    shared: frozenset[str],
) -> Iterator[Check]:
    vocabulary = {new_layout.embedding, new_layout.head, new_layout.bias} - {None}
    copies = {*new_layout.unclaimed, *old_layout.unclaimed}
    replaced = vocabulary | {old_layout.embedding, old_layout.head, old_layout.bias} | set(old_layout.stale) | copies
    body, old_body = set(new.tensors) - replaced, set(old.tensors) - replaced
    yield Check("no stale head", not new_layout.stale, str(sorted(new_layout.stale) or "one matrix each"))
    yield Check("tensor names", body == old_body, _difference(body, old_body) or f"{len(body)} body tensors")
    cast = manifest.content["options"]["dtype"]
    healed = manifest.content.get("healed") or {"tensors": [], "rows": []}
    known = {name for name in body & old_body if new.tensors[name].file.name in shared} | {*healed["tensors"]}
    changed = [name for name in sorted((body & old_body) - known) if not _same(new, old, name, cast)]
    how = f"identical, cast to {cast}" if cast else "identical byte for byte"
    how += f", but for {len(healed['tensors'])} that were trained" if healed["tensors"] else ""
    yield Check("body unchanged", not changed, f"{changed[:3]} differ" if changed else how)

    if copies:
        digests = {new.digest(name) for name in (new_layout.embedding, new_layout.head) if name}
        same = copies == set(new_layout.unclaimed) and all(new.digest(name) in digests for name in copies)
        yield Check("copies of the embedding", same, f"{sorted(copies)[:3]} {'agree' if same else 'differ'}")
    rows = len(manifest.provenance)
    pairs = [(new_layout.embedding, old_layout.embedding)]
    if new_layout.head:
        pairs.append((new_layout.head, old_layout.head or old_layout.embedding))
    if new_layout.bias and old_layout.bias:
        pairs.append((new_layout.bias, old_layout.bias))
    shapes = {name: new.tensors[name].shape for name, _ in pairs}
    good = all(
        shape[0] == rows and shape[1:] == old.tensors[o].shape[1:]
        for (n, o), shape in zip(pairs, shapes.values(), strict=True)
    )
    yield Check("shapes", good, ", ".join(f"{n} {list(s)}" for n, s in shapes.items()))
    if not good:
        return
    anchors = np.setdiff1d(np.flatnonzero(manifest.source >= 0), np.array(healed["rows"], dtype=np.int64))
    for name, old_name in pairs:
        tensor, source = new.read(name).reshape(rows, -1), old.read(old_name)
        bad = damaged_rows(tensor)
        yield Check(f"{name} finite", not len(bad), f"row {int(bad[0])} is not" if len(bad) else f"{rows} rows")
        wanted = getattr(torch, cast) if cast else source.dtype
        if wanted != tensor.dtype:
            yield Check(f"{name} anchors", False, f"stored as {tensor.dtype}, expected {wanted}")
            continue
        differ = _differing(tensor, source.reshape(len(source), -1), anchors, manifest.source[anchors])
        yield Check(
            f"{name} anchors",
            not len(differ),
            f"{len(differ)} rows differ from the base's (first: id {differ[0]})"
            if len(differ)
            else f"{len(anchors)} rows bit-identical to the base's",
        )


def _differing(new: torch.Tensor, old: torch.Tensor, ids: Ids, sources: Ids) -> Ids:
    """Those ``ids`` whose rows in ``new`` are not, bit by bit, the ``sources`` of ``old``, cast to the same dtype."""
    equal = np.ones(len(ids), dtype=bool)
    for start in range(0, len(ids), _BLOCK):
        part = slice(start, start + _BLOCK)
        got, wanted = new[torch.from_numpy(ids[part])], old[torch.from_numpy(sources[part])].to(new.dtype)
        equal[part] = (got.view(torch.uint8) == wanted.view(torch.uint8)).all(dim=1).numpy()
    return ids[~equal]


def _same(new: Checkpoint, old: Checkpoint, name: str, cast: str | None) -> bool:
    a, b = new.tensors[name], old.tensors[name]
    if a.shape != b.shape:
        return False
    if a.dtype == b.dtype:
        return new.same(old, name)
    if cast is None:
        return False
    wanted = old.read(name).to(getattr(torch, cast))
    return bool(torch.isfinite(wanted).all()) and torch.equal(new.read(name), wanted)


def _difference(a: set[str], b: set[str]) -> str:
    extra, missing = sorted(a - b)[:3], sorted(b - a)[:3]
    return (f"unexpected {extra} " if extra else "") + (f"missing {missing}" if missing else "")


def _tokenizer(out: Path, donor: Path | None, manifest: Manifest) -> Iterator[Check]:
    files = TokenizerFiles.open(out)
    rows = len(manifest.provenance)
    config, size = read_config(out), vocab_size(out)
    yield Check(
        "tokenizer unchanged",
        files.digest() == manifest.content["tokenizer_sha256"],
        "the one that was transplanted, by its hash",
    )
    top = max(files.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    yield Check("ids in range", top < rows, f"highest id {top}, {rows} rows")
    yield Check("vocab_size", size == rows, f"config says {size}, tensors have {rows}")
    special = files.special_ids()
    generation_path = out / "generation_config.json"
    generation = json.loads(generation_path.read_text()) if generation_path.is_file() else {}
    wrong = []
    for where, part in (("config", config), ("generation_config", generation)):
        for name, value in part.items():
            token = name.removesuffix("_id")
            ids = [i for i in _listed(value) if i is not None] if name.endswith("_token_id") else []
            unknown = where == "config" and token in ("bos_token", "eos_token", "pad_token") and token not in special
            if any(i >= rows for i in ids) or (ids and unknown) or (ids and special.get(token, ids[0]) not in ids):
                wrong.append(f"{where} {name}={value}, tokenizer {special.get(token)}, {rows} rows")
    yield Check("special ids agree", not wrong, "; ".join(wrong) or "config, generation config and tokenizer")
    own = files.plain()
    reference = TokenizerFiles.open(donor).plain() if donor is not None else own
    faults = []
    for text in _SAMPLES:
        ids = own.encode(text, add_special_tokens=False).ids
        theirs = reference.encode(text, add_special_tokens=False).ids
        if ids != theirs or own.decode(ids) != reference.decode(theirs):
            faults.append(text[:20])
    lossless = all(own.decode(own.encode(t, add_special_tokens=False).ids) == t for t in _SAMPLES)
    dead = set(manifest.ids(Provenance.UNREACHABLE, Provenance.PADDING).tolist())
    emitted = dead & set(own.encode(python_text(100_000, part=3), add_special_tokens=False).ids)
    yield Check("dead ids are never emitted", not emitted, f"{sorted(emitted)[:3]} are" if emitted else "on 100 kB")
    kind = "exact" if lossless else "lossy, as the donor's"
    yield Check("text round trip", not faults, f"differs from the donor's on {faults}" if faults else kind)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class _Warnings(logging.Handler):
    """Keeps what transformers warns about while it loads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in record.getMessage().splitlines()]
        telling = [line for line in lines if re.search(r"MISSING|UNEXPECTED|MISMATCH", line)]
        self.seen += telling or lines[:1]


def _forward(out: Path, manifest: Manifest) -> Iterator[Check]:
    import transformers

    handler = _Warnings()
    logger = logging.getLogger("transformers")
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_warning()
    logger.addHandler(handler)
    transformers.logging.disable_default_handler()  # what is seen goes into the check, not to the terminal
    try:
        loaded = load_model(out)
    finally:
        transformers.logging.enable_default_handler()
        logger.removeHandler(handler)
        transformers.logging.set_verbosity(level)
    yield Check(
        "loads without a warning",
        not handler.seen,
        "; ".join(handler.seen[:2]) or "AutoModelForCausalLM, AutoTokenizer",
    )
    yield _agrees(loaded.encode, out)
    yield from _logits(loaded, manifest)


def _tokenizer_alone(out: Path, unrun: str) -> Iterator[Check]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=False)
    yield _agrees(LoadedModel(None, tokenizer, None).encode, out)
    yield Check("forward pass", True, f"not run: {unrun}")


def _agrees(encode: Callable[[str], list[int]], out: Path) -> Check:
    raw = TokenizerFiles.open(out).plain()
    same = all(encode(t) == raw.encode(t, add_special_tokens=False).ids for t in _SAMPLES)
    return Check("AutoTokenizer agrees", same, "with tokenizer.json" if same else "it cuts text unlike tokenizer.json")


def _logits(loaded: LoadedModel, manifest: Manifest) -> Iterator[Check]:
    rows = len(manifest.provenance)
    dead = torch.from_numpy(manifest.ids(Provenance.UNREACHABLE, Provenance.PADDING))
    ids = loaded.encode(_SAMPLES[0])
    prefix = [] if loaded.prefix is None else [loaded.prefix]
    with torch.inference_mode():
        logits = loaded.model(input_ids=torch.tensor([[*prefix, *ids]])).logits
    finite = bool(torch.isfinite(logits).all())
    good = finite and logits.shape[-1] == rows
    yield Check("forward pass", good, f"{list(logits.shape)} logits, {'finite' if finite else 'not finite'}")
    if len(dead) and good:
        pieces = split_bytes(python_text(8192, part=2))
        mass = score_text(loaded.model, loaded.encode, loaded.prefix, pieces, watched=dead).mass or 0.0
        yield Check(
            "dead ids",
            mass < DEAD_MASS_LIMIT,
            f"{len(dead)} ids take {mass:.1e} of the mass (limit {DEAD_MASS_LIMIT:g})",
        )
