"""Say what in a manifest is not of the kind that its readers take it for: anybody can edit the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tokensurgeon.alignment import Provenance, RowPlan

__all__ = ["wrongs"]

_Kind = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _rank(value: Any) -> bool:
    return _whole(value) and value >= 1


def _or_none(kind: _Kind) -> _Kind:
    return lambda value: value is None or kind(value)


def _list(kind: _Kind) -> _Kind:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _table(kind: _Kind) -> _Kind:
    return lambda value: isinstance(value, dict) and all(map(kind, value.values()))


def _having(**kinds: _Kind) -> _Kind:
    return lambda value: (
        isinstance(value, dict) and all(name in value and kind(value[name]) for name, kind in kinds.items())
    )


def _blends(value: Any) -> bool:
    """Row to base ids for the input, for the head, and for both in one."""
    keys_fit = isinstance(value, dict) and all(key.isdecimal() for key in value)
    return keys_fit and all(_list(_list(_whole))(ids) and len(ids) == 3 for ids in value.values())


def _run(value: Any) -> bool:
    return isinstance(value, dict) and _or_none(_rank)(value.get("lora"))


_ANYTHING: _Kind = lambda _: True  # noqa: E731
_SIDE = _having(name=_text, rows=_whole, sha256=_table(_text))
_KINDS: Mapping[str, _Kind] = {
    "base": _SIDE,
    "donor": _SIDE,
    "options": _table(_ANYTHING),
    "method": _having(name=_text),
    "versions": _table(_text),
    "tokenizer_sha256": _text,
    "not_run": _or_none(_text),
    "linked": _list(_text),
    "beginning": _or_none(_whole),
    "starts_with": _whole,
    "start": _text,
    "outliers": _having(ids=_list(_whole)),
    "blends": _blends,
    "numbers": _table(_ANYTHING),
    "inherited": _table(_list(_whole)),
    "sha256": _having(tensors=_table(_text), files=_table(_text)),
    "healed": _having(runs=_list(_run), rows=_list(_whole), tensors=_list(_text)),
}
_OF_MERGES = {"tokenizer_sha256", "beginning", "starts_with", "start", "sha256", "inherited"}
_INHERITED = (Provenance.RECONSTRUCTED.label, Provenance.UNREACHABLE.label, Provenance.TRAINED.label)


def wrongs(content: Mapping[str, Any], plan: RowPlan) -> Iterator[str]:
    """What cannot be, in words.

    Args:
        content: Everything but the rows; of a merge, its readers use nothing but digests and what texts begin with.
        plan: The rows.
    """
    if len(plan.provenance) != len(plan.source):
        yield f"{len(plan.provenance)} rows have a provenance, {len(plan.source)} a source"
    elif len(unknown := np.setdiff1d(plan.provenance, list(Provenance))):
        yield f"provenance {int(unknown[0])} stands for nothing"
    elif plan.source.min(initial=0) < -1:
        yield f"a row's source is {int(plan.source.min())}"
    yield from (
        f"{name} is not what it should be"
        for name, kind in _KINDS.items()
        if name in content and (name in _OF_MERGES or "merge" not in content) and not kind(content[name])
    )
    healed, options = content.get("healed"), content.get("options")
    if isinstance(healed, dict) and any(not 0 <= i < plan.n_rows for i in healed.get("rows", ())):
        yield f"healed names a row that is none of {plan.n_rows}"
    if isinstance(start := content.get("starts_with"), int) and not 0 <= start < plan.n_rows:
        yield f"starts_with names a row that is none of {plan.n_rows}"
    carried = content.get("inherited")
    if isinstance(carried, dict) and any(name not in _INHERITED for name in carried):
        yield "inherited names what is not inherited"
    elif isinstance(carried, dict) and any(not 0 <= i < plan.n_rows for ids in carried.values() for i in ids):
        yield f"inherited names a row that is none of {plan.n_rows}"
    if isinstance(options, dict) and options.get("dtype") not in (None, "float32", "bfloat16", "float16"):
        yield "options.dtype is not what it should be"
    if isinstance(options, dict) and not _or_none(_table(_text))(options.get("map")):
        yield "options.map is not what it should be"
