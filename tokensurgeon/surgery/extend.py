"""Add tokens to a model's own tokenizer: given ones, or those that some text would be shorter with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tokensurgeon.alignment import Alignment, Ids, Provenance, RowPlan
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.room import refuse_no_room
from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.errors import InputError, VerificationError
from tokensurgeon.evaluation.loading import pick_device
from tokensurgeon.evaluation.policy import VERIFY, why_not_run
from tokensurgeon.evaluation.states import quiet_row, read_states
from tokensurgeon.evaluation.texts import Text, TextPieces, open_texts
from tokensurgeon.progress import Clock, Progress, Stage
from tokensurgeon.report.card import outliers_in_words
from tokensurgeon.report.markdown import code
from tokensurgeon.surgery.body import silent_rows
from tokensurgeon.surgery.extend_rows import learn_rows
from tokensurgeon.surgery.options import ExtendOptions
from tokensurgeon.surgery.own_tokenizer import changed_model, measure_texts, read_lines, refuse_other_texts, write_pages
from tokensurgeon.surgery.pair import summarise
from tokensurgeon.surgery.record import describe_asked
from tokensurgeon.surgery.write import finish, write_output
from tokensurgeon.transfer.rows import assemble
from tokensurgeon.vocabulary.edit.add import Addition, extended_spec, given_tokens, learnt_tokens
from tokensurgeon.vocabulary.edit.special import special_spec

__all__ = ["ExtendReport", "Growth", "extend", "grow"]

_HELD_OUT = 10
"""One piece of text in so many is put aside, to see what the new tokens are worth on text that they were not
learnt from."""
_MULTIPLE = 64
"""Where a model's rows are padded to a multiple of this, they stay so."""
_SHOWN = 32
_KEPT = "its own, which it had as an ordinary token"
_CONTEXTS = ("{}", "a{}b", "A {} b.\n{}", "<{}>", "{}{}")


@dataclass(frozen=True, slots=True)
class ExtendReport:
    """What was added.

    Attributes:
        out: The written model.
        added: New tokens.
        rows: Of the embedding now.
        tokens_per_byte: Before and after, on held-out text.
        content: The manifest's content.
    """

    out: Path
    added: int
    rows: int
    tokens_per_byte: tuple[float, float]
    content: dict[str, Any]


def extend(
    model: str,
    out: Path | str,
    options: ExtendOptions,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExtendReport:
    """Write a model that knows more tokens; rows of old ones stay bit for bit.

    Args:
        model: Directory, ``.gguf`` file, or hub id.
        out: Output directory.
        options: What to add, and how the rows are made.
        overwrite: Replace an output that exists.
        progress: Called with (stage, done, total).

    Raises:
        InputError: If a token cannot be one, or the text does not hold so many.
        VerificationError: If tokenizer or model are not what they must be; nothing is left behind.

    Example:
        >>> import tokensurgeon
        >>> report = tokensurgeon.extend("base", "out", tokensurgeon.ExtendOptions(tokens="tokens.txt"))
        >>> report.added > 0
        True
    """
    target = Path(out).expanduser().absolute()
    check_target(target, overwrite, (model, *([options.donor] if options.donor else [])))
    left = OpenModel.open(model).checked()
    texts = open_texts([Path(name) for name in options.text])
    additions, measured = _additions(left, texts, options, progress)
    return grow(left, target, Growth(additions), options, measured, overwrite=overwrite, progress=progress)


@dataclass(frozen=True, slots=True)
class Growth:
    """What a vocabulary gets besides the special tokens of its options.

    Attributes:
        additions: Joins of pieces, in the order in which they are made.
        plain: Added tokens that are not special, with their flags as ``tokenizer.json`` has them.
        multiple: The number of rows is rounded up to a multiple of this; None keeps to multiples of 64 where the
            model's rows are one.
        lenient: Let pieces on the way to others be ones that never come out; otherwise they are refused.
    """

    additions: list[Addition]
    plain: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    multiple: int | None = None
    lenient: bool = False


def grow(
    left: OpenModel,
    target: Path,
    growth: Growth,
    options: ExtendOptions,
    measured: Sequence[str],
    *,
    overwrite: bool,
    progress: Progress | None,
) -> ExtendReport:
    """Write a model with a larger vocabulary; rows of old tokens stay bit for bit.

    Args:
        left: The model.
        target: Output directory.
        growth: What it gets.
        options: Special tokens, and how the rows are made.
        measured: Texts that the tokens were not learnt from, each encoded by itself.
        overwrite: Replace an output that exists.
        progress: Called with (stage, done, total).

    Raises:
        InputError: If there is nothing to do, or a token cannot be one.
        VerificationError: If tokenizer or model are not what they must be; nothing is left behind.
    """
    clock = Clock()
    first, layout = len(left.vocabulary), left.layout
    if first > layout.rows:
        what = left.vocabulary.describe(first - 1)
        raise InputError(
            f"{left.name}: token {what} has id {first - 1} and no row, the embedding has {layout.rows}. Give it one "
            f"first: tokensurgeon resize {left.name} --rows {first} --out DIR"
        )
    changed, added = extended_spec(left.spec, growth.additions, first)
    changed, special, promoted = special_spec(changed, [*options.special, *growth.plain], first + added)
    changed["added_tokens"] = [token | growth.plain.get(token["content"], {}) for token in changed["added_tokens"]]
    if not (added or special or promoted or growth.multiple):
        raise InputError("nothing to add: the tokenizer has all of these tokens already")
    added += len(special)
    refuse_no_room(target, left, layout.rows + added)
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-extend-") as place, staged(target, overwrite) as work:
        same = {i: i for i in range(first)}
        declared = [literal for literal in special | promoted if literal not in growth.plain]
        right = changed_model(left, changed, same, Path(place), "extended", declared)
        new = np.arange(first, first + added)
        _refuse_moved(left, right)
        if not growth.lenient:
            _refuse_silent(right, new)
            _refuse_cut(right, special | promoted)
        refuse_other_texts(left, right, "extended")
        compared = measure_texts(left, right, measured, "extended", progress)
        plan = RowPlan.grown(layout.rows, new, growth.multiple or (1 if layout.rows % _MULTIPLE else _MULTIPLE))
        dead = new[~right.vocabulary.canonical[new]]
        plan, new = plan.changed(Provenance.UNREACHABLE, dead), np.setdiff1d(new, dead)
        special = {literal: i for literal, i in special.items() if right.vocabulary.canonical[i]}
        old, unrun = left.matrices(), why_not_run(left.directory, left.checkpoint, layout, None, options.device, VERIFY)
        made = learn_rows(left, old, right, new, special, options, progress)
        quiet = None
        if n_silent := silent_rows(plan, old):
            states = read_states(left, pick_device(options.device), progress)[1] if unrun is None else None
            quiet = quiet_row(left, old, n_silent, states)
        matrices = assemble(old, plan, made.rows, suppressing=quiet)
        if made.guarded is not None:
            made.guarded.settle(matrices.embedding, old.embedding, made.by_donor_ids)
        summary = summarise(left, right, Alignment(plan, {}, ()), [], {"held-out text": compared.counted})
        before, after = compared.tokens_per_byte
        content = describe_asked(options) | {
            "base": left.described(), "donor": made.donor or left.described() | {"name": right.name},
            "held_out": None, "not_run": unrun, "outliers": made.outliers(right.vocabulary),
            "extended": {
                "tokens": added, "never_emitted": len(dead), "by_donor": made.by_donor,
                "special": [
                    *({"token": text, "id": i, "row": made.special[i]} for text, i in special.items()),
                    *({"token": text, "id": i, "row": _KEPT} for text, i in promoted.items()),
                ],
                "examples": [right.vocabulary.describe(i) for i in new[:_SHOWN]],
                "tokens_per_byte": {"before": before, "after": after, "bytes": compared.n_bytes},
            },
        } | summary  # fmt: skip
        shared = write_output(work, left, right, matrices, plan, content)
        finish(work, left, right, plan, content, shared, clock, progress, None, pick_device(options.device))
        what = _sentences(left.name, added, options.method, before, after)
        what += "".join(f" {sentence}" for sentence in outliers_in_words(content["outliers"]))
        became = [{"token": t["token"], "roles": "", "became": t["row"]} for t in content["extended"]["special"]]
        what += "".join(f" {code(token['token'])} is special: {token['became']}." for token in became)
        write_pages(work, content, summary, f"{left.name} with more tokens", what, became)
    return ExtendReport(target, added, plan.n_rows, (before, after), content)


def _additions(
    model: OpenModel, texts: Mapping[str, Text], options: ExtendOptions, progress: Progress | None
) -> tuple[list[Addition], Sequence[str]]:
    """New tokens, and the text that they were not learnt from."""
    pieces = TextPieces.of(texts.values())
    if options.tokens is not None:
        return given_tokens(model.spec, model.tokenizer.plain(), read_lines("--tokens", options.tokens)), pieces
    if options.add is None:
        return [], pieces
    if len(pieces) < _HELD_OUT:
        n_bytes = sum(text.n_bytes for text in texts.values())
        raise InputError(f"--text: {n_bytes:,} bytes are too few to put a tenth aside. Give at least 20 kB")

    def learnt() -> Iterator[str]:
        for i in range(0, len(pieces), _HELD_OUT):
            yield "".join(pieces[i : i + _HELD_OUT - 1])
            if progress is not None:
                progress(Stage.READ, min(i + _HELD_OUT, len(pieces)), len(pieces))

    found = learnt_tokens(model.spec, model.tokenizer.plain(), learnt(), options.add)
    return found, pieces[_HELD_OUT - 1 :: _HELD_OUT]


def _refuse_moved(old: OpenModel, new: OpenModel) -> None:
    pieces = zip(old.vocabulary.pieces, new.vocabulary.pieces, strict=False)
    moved = [i for i, (before, after) in enumerate(pieces) if before is not None and before != after]
    if moved:
        raise VerificationError(f"token {old.vocabulary.describe(moved[0])} would lose its id {moved[0]}")


def _refuse_silent(model: OpenModel, new: Ids) -> None:
    silent = [int(i) for i in new if not model.vocabulary.canonical[i]]
    if silent:
        raise VerificationError(
            f"{len(silent)} new tokens would never come out, such as {model.vocabulary.describe(silent[0])}"
        )


def _refuse_cut(model: OpenModel, special: Mapping[str, int]) -> None:
    """A special token must come out wherever its literal stands."""
    for literal, token_id in special.items():
        for context in _CONTEXTS:
            text, n = context.replace("{}", literal), context.count("{}")
            if model.vocabulary.encode(text).count(token_id) != n:
                raise InputError(
                    f"special token {literal!r} is cut in {text!r}, where another added token overlaps it. "
                    "Choose another literal"
                )


def _sentences(model: str, added: int, method: str, before: float, after: float) -> str:
    return (
        f"{code(model)} with {added:,} more tokens, by tokensurgeon extend. Their rows are estimates (method "
        f"{method}), all others are as they were. Held-out text takes {after:.4f} tokens per byte, {before:.4f} "
        "before. `tokensurgeon revert` takes the new tokens away again."
    )
