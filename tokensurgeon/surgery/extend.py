"""More tokens, no other tokenizer: given ones, or those that some text would be shorter with."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokensurgeon.alignment import Alignment, Ids, Provenance
from tokensurgeon.baselines import fasttext_units, goes_by_donor
from tokensurgeon.baselines.auto import Auto
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.errors import InputError, VerificationError
from tokensurgeon.evaluation.loading import pick_device
from tokensurgeon.evaluation.policy import why_not_run
from tokensurgeon.evaluation.states import quiet_row, read_states
from tokensurgeon.evaluation.texts import load_texts, split_bytes
from tokensurgeon.progress import Progress
from tokensurgeon.surgery.extend_rows import grown_matrices, rows_by_donor, rows_by_text
from tokensurgeon.surgery.options import TransplantOptions
from tokensurgeon.surgery.own_tokenizer import changed_side, read_lines, refuse_other_texts, write_pages
from tokensurgeon.surgery.pair import summarise
from tokensurgeon.surgery.record import describe_run
from tokensurgeon.surgery.write import seal, write_output
from tokensurgeon.vocabulary.edit.add import Addition, extended_spec, given_tokens, learnt_tokens

__all__ = ["ExtendReport", "extend"]

_HELD_OUT = 10
"""One piece of text in so many is put aside, to see what the new tokens are worth on text that they were not
learnt from."""
_MULTIPLE = 64
"""Where a model's rows are padded to a multiple of this, they stay so."""
_SHOWN = 32


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
    *,
    tokens: Path | str | None = None,
    text: Sequence[Path | str] = (),
    add: int | None = None,
    donor: str | None = None,
    options: TransplantOptions | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExtendReport:
    """Write a model that knows more tokens; rows of old ones stay bit for bit.

    Args:
        model: Directory, ``.gguf`` file, or hub id.
        out: Output directory.
        tokens: A file with one new token per line; a space at the beginning of a line counts.
        text: Files in UTF-8 to learn from (with ``add``), or to measure on (with ``tokens``).
        add: Tokens to learn from nine tenths of the text; the rest is held out.
        donor: A model that may have rows for the new tokens. Those that it lacks are made of their own pieces.
        options: ``method``, ``k``, ``method_options``, ``device`` and ``seed`` count. By default ``subtoken``,
            or ``omp`` where there is a donor.
        overwrite: Replace an output that exists.
        progress: Called with (stage, done, total).

    Raises:
        InputError: If a token cannot be one, or the text does not hold so many.
        VerificationError: If tokenizer or model are not what they must be; nothing is left behind.
    """
    options = options or TransplantOptions(method="omp" if donor else "subtoken")
    _check_options(tokens, text, add, donor, options)
    started = time.perf_counter()
    target = Path(out).expanduser().absolute()
    check_target(target, overwrite, (model, *([donor] if donor else [])))
    base = OpenModel.open(model).checked()
    left, first = base, len(base.vocabulary)
    if first > base.layout.rows:
        raise InputError(f"{model}: token {first - 1} has no row, the embedding has {base.layout.rows}")
    texts = load_texts([Path(name) for name in text])
    spec = json.loads(left.tokenizer.tokenizer.to_str())
    additions, measured = _additions(spec, left, texts, tokens, add)
    changed, added = extended_spec(spec, additions, first)
    if not added:
        raise InputError("nothing to add: the tokenizer has all of these tokens already")
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-extend-") as place, staged(target, overwrite) as work:
        right = changed_side(left, changed, {i: i for i in range(first)}, Path(place), "extended")
        new = np.arange(first, first + added)
        _refuse_moved(left, right)
        _refuse_silent(right, new)
        refuse_other_texts(left, right, texts.values(), "extended")
        plan = _plan(base.layout.rows, new)
        unrun = why_not_run(left.directory, base.checkpoint, base.layout, None)
        old, theirs, described = base.matrices(), 0, base.described()
        donated = described | {"name": right.name}
        if donor is None:
            fresh = rows_by_text(base, old, right, new, options.reconstruction(), options.seed)
        else:
            fresh, theirs, donated = rows_by_donor(base, old, right, new, donor, options, progress)
        quiet = None
        if (n_padding := len(plan.ids(Provenance.PADDING))) and old.bias is None:
            states = read_states(left, pick_device(options.device), progress)[1] if unrun is None else None
            quiet = quiet_row(left, old, n_padding, states)
        matrices = grown_matrices(old, fresh, plan, quiet)
        summary = summarise(left, right, plan, [], {"held-out text": "".join(measured)})
        before, after = (_tokens_per_byte(side, measured) for side in (left, right))
        content = describe_run(options) | {
            "base": described, "donor": donated, "held_out": None, "not_run": unrun,
            "extended": {
                "tokens": added, "by_donor": theirs, "examples": [right.vocabulary.describe(i) for i in new[:_SHOWN]],
                "tokens_per_byte": {"before": before, "after": after, "bytes": sum(len(t.encode()) for t in measured)},
            },
        } | summary  # fmt: skip
        shared = write_output(work, base, right, matrices, plan, content)
        seal(work, left, right, plan, content, shared, started, progress)
        told = _told(left.name, added, options.method, before, after)
        write_pages(work, content, summary, f"{left.name} with more tokens", told)
    return ExtendReport(target, added, plan.n_rows, (before, after), content)


def _check_options(
    tokens: Path | str | None,
    text: Sequence[Path | str],
    add: int | None,
    donor: str | None,
    options: TransplantOptions,
) -> None:
    if (tokens is None) == (add is None):
        raise InputError("say what to add: --tokens FILE, or --text FILE and --add N, and not both")
    if add is not None and not text:
        raise InputError(f"--add {add} needs a text to learn from. Give --text FILE")
    if add is not None and add < 1:
        raise InputError(f"--add {add} must be at least 1")
    method = options.reconstruction()
    if fasttext_units(method) or isinstance(method, Auto):
        wish = "method auto" if isinstance(method, Auto) else "space=fasttext"
        raise InputError(f"{wish} is for transplants; here --method subtoken, mean or normal need no donor")
    if goes_by_donor(method) != (donor is not None):
        raise InputError(
            f"method {options.method} goes by a donor's embedding. Give --donor, or --method subtoken, mean, normal"
            if donor is None
            else f"method {options.method} does not ask a donor. Leave out --donor, or give --method omp"
        )


def _additions(
    spec: Mapping[str, Any], model: OpenModel, texts: Mapping[str, str], tokens: Path | str | None, add: int | None
) -> tuple[list[Addition], list[str]]:
    """New tokens, and the text that they were not learnt from."""
    if tokens is not None:
        return given_tokens(spec, model.tokenizer.plain(), read_lines("--tokens", tokens)), list(texts.values())
    pieces = [piece for content in texts.values() for piece in split_bytes(content)]
    if len(pieces) < _HELD_OUT:
        raise InputError(
            f"--text: {sum(map(len, pieces)):,} characters are too few to put a tenth aside. Give at least 20 kB"
        )
    learnt = ["".join(pieces[i : i + _HELD_OUT - 1]) for i in range(0, len(pieces), _HELD_OUT)]
    return learnt_tokens(spec, model.tokenizer.plain(), learnt, add or 0), pieces[_HELD_OUT - 1 :: _HELD_OUT]


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


def _plan(n_old: int, new: Ids) -> Alignment:
    """Every old row stays, rows without a token included, but where a new token takes their place."""
    n_rows = max(n_old, int(new[-1]) + 1)
    n_rows += -n_rows % (_MULTIPLE if n_old % _MULTIPLE == 0 else 1)
    source: Ids = np.full(n_rows, -1, dtype=np.int64)
    source[:n_old] = np.arange(n_old)
    source[new] = -1
    provenance = np.where(source >= 0, Provenance.COPIED, Provenance.PADDING).astype(np.int8)
    provenance[new] = Provenance.RECONSTRUCTED
    return Alignment(provenance, source, {}, ())


def _tokens_per_byte(model: OpenModel, texts: Sequence[str]) -> float:
    n_tokens = sum(len(model.vocabulary.encode(text)) for text in texts)
    return n_tokens / sum(len(text.encode()) for text in texts)


def _told(model: str, added: int, method: str, before: float, after: float) -> str:
    return (
        f"`{model}` with {added:,} more tokens, by tokensurgeon extend. Their rows are estimates (method {method}), "
        f"all others are as they were. Held-out text takes {after:.4f} tokens per byte, {before:.4f} before. "
        "`tokensurgeon revert` takes the new tokens away again."
    )
