"""Names to methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tokensurgeon.baselines.auto import Auto
from tokensurgeon.baselines.constant import Mean, Normal, Zero
from tokensurgeon.baselines.focus import Focus
from tokensurgeon.baselines.linear import Procrustes, Ridge
from tokensurgeon.baselines.neighbours import Neighbours, Wechsel
from tokensurgeon.baselines.subtoken import Subtoken
from tokensurgeon.errors import InputError
from tokensurgeon.transfer.omp import Omp
from tokensurgeon.transfer.protocol import Method

__all__ = ["METHODS", "fasttext_units", "goes_by_donor", "make_method"]

METHODS: dict[str, type[Any]] = {
    "omp": Omp,
    "zero": Zero,
    "mean": Mean,
    "normal": Normal,
    "subtoken": Subtoken,
    "neighbours": Neighbours,
    "ridge": Ridge,
    "procrustes": Procrustes,
    "wechsel": Wechsel,
    "focus": Focus,
}


def goes_by_donor(method: Method) -> bool:
    """Whether a method asks the donor's rows; otherwise it can make tokens for which the donor has none."""
    if isinstance(method, Zero | Mean | Normal | Subtoken):
        return False
    return fasttext_units(method) is None


def fasttext_units(method: Method) -> Literal["tokens", "words"] | None:
    """What the fastText vectors that a method asks for are trained on; None if it asks for none."""
    if getattr(method, "space", "donor") != "fasttext":
        return None
    return "tokens" if isinstance(method, Focus) else "words"


def make_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """A method by name, or `Auto`, with its options; numbers may be given as text.

    Raises:
        InputError: If the method or one of the options is not known, or a value does not fit.
    """
    if name not in (*METHODS, "auto"):
        raise InputError(f"unknown method {name!r}; known are {', '.join((*METHODS, 'auto'))}")
    cls = METHODS.get(name, Auto)
    kinds = get_type_hints(cls)
    known = {f.name: f for f in fields(cls) if f.default is not MISSING}
    given = {}
    for option, value in (options or {}).items():
        if option not in known:
            takes = "takes no options" if not known else f"takes {', '.join(known)}"
            raise InputError(f"method {name} takes no {option}; it {takes}")
        given[option] = _value(name, option, value, kinds[option], zero=known[option].metadata.get("zero", False))
    method: Method = cls(**given)
    return method


def _value(method: str, option: str, value: Any, kind: Any, *, zero: bool) -> Any:
    """A value of the option's type: a whole number from 1, a number above 0 or from it, or one of some words.

    An option that may be None has that as its default.
    """
    words = get_args(kind)
    if get_origin(kind) is Literal:
        if value in words:
            return value
        raise InputError(f"method {method}: {option}={value!r} must be one of {', '.join(words)}")
    if words:
        if value is None:
            return None
        kind = next(word for word in words if word is not type(None))
    try:
        number = kind(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError, OverflowError):
        number = None
    if (
        number is None
        or (kind is int and float(value) != number)
        or not (0 < number < float("inf") or (zero and number == 0))
    ):
        least = "a whole number of at least 1" if kind is int else f"a number {'of at least' if zero else 'above'} 0"
        raise InputError(f"method {method}: {option}={value!r} must be {least}")
    return number
