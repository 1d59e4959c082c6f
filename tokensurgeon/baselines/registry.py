"""Make a method from its name and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tokensurgeon.baselines.constant import Mean, Normal, Zero
from tokensurgeon.baselines.focus import Focus
from tokensurgeon.baselines.linear import Procrustes, Ridge
from tokensurgeon.baselines.neighbours import Neighbours, Wechsel
from tokensurgeon.baselines.subtoken import Subtoken
from tokensurgeon.errors import InputError
from tokensurgeon.transfer.omp import Omp
from tokensurgeon.transfer.protocol import Method, Needs

__all__ = ["METHODS", "make_method", "names_needing", "with_options"]

METHODS: dict[str, type[Any]] = {
    method.name: method for method in (Omp, Zero, Mean, Normal, Subtoken, Neighbours, Ridge, Procrustes, Wechsel, Focus)
}


def names_needing(*needs: Needs) -> str:
    """Names of the methods that go by one of these, with their defaults, for messages: ``mean, normal or subtoken``."""
    found = [name for name, cls in METHODS.items() if cls().needs in needs]
    return " or ".join(filter(None, (", ".join(found[:-1]), found[-1])))


def make_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """A method by name with its options; numbers may be given as text.

    Raises:
        InputError: If the method or one of the options is not known, or a value does not fit.

    Example:
        >>> make_method("omp", {"k": "8"})
        Omp(k=8, rest='mapped', tokens=16384)
    """
    if name == "auto":
        raise InputError("method auto is chosen for a pair of models, by a transplant; here name one")
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; known are {', '.join((*METHODS, 'auto'))}")
    method: Method = with_options(METHODS[name], name, options or {})
    return method


def with_options(cls: type[Any], name: str, options: Mapping[str, Any]) -> Any:
    """A dataclass of a method's options, from values that may be text.

    Raises:
        InputError: If one of the options is not known, or a value does not fit.
    """
    kinds = get_type_hints(cls)
    known = {f.name: f for f in fields(cls) if f.default is not MISSING}
    given = {}
    for option, value in options.items():
        if option not in known:
            takes = "takes no options" if not known else f"takes {', '.join(known)}"
            raise InputError(f"method {name} takes no {option}; it {takes}")
        given[option] = _value(name, option, value, kinds[option], zero=known[option].metadata.get("zero", False))
    return cls(**given)


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
