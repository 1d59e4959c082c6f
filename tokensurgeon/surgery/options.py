"""The options of a transplant, one default each, and recipes in TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from tokensurgeon.baselines import make_method
from tokensurgeon.checkpoint.linking import LINKS, Link
from tokensurgeon.checkpoint.text import read_text
from tokensurgeon.errors import InputError
from tokensurgeon.solver.memory import parse_size
from tokensurgeon.transfer.protocol import Method

__all__ = ["Numbers", "TransplantOptions", "load_recipe"]

Numbers = Literal["donor", "base"]
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class TransplantOptions:
    """What a transplant may be told. Tables and lists are copied: what a caller does to its own later changes nothing.

    Attributes:
        method: How tokens that the base lacks are reconstructed, a name of `tokensurgeon.baselines`.
        k: Anchors per reconstructed token, for methods that take it; None is the method's default.
        method_options: Further options of the method.
        map: Donor token to the base text that it shall stand for.
        numbers: ``donor`` leaves its tokenizer as it is. ``base`` makes it cut numbers digit by digit, where the base
            does so and it does not; tokens with several digits are never emitted then.
        untie: Write a separate LM head although the base has none.
        pad_to_multiple_of: Round the number of tokens up to this, instead of the donor's
            ``config.vocab_size``.
        dtype: Convert the output's floating tensors; None keeps the base's.
        link: How shards of which nothing changes get into the output: ``hard`` (a link, the same file), ``copy``, or
            ``auto``: cloned where the file system can, otherwise linked, otherwise copied.
        device: Where to solve: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        exact: Prove that every pick is the one of Orthogonal Matching Pursuit in float32.
        memory: Work space of the solver in each process, such as ``4GiB``; None takes half of what is free.
        forward: Whether the models are run: the base for the row that takes no probability, the output to see that
            it works. None runs those with a body of up to 2 GiB; the others' bodies are not read.
        calibrate: Shift the logits of reconstructed tokens so that their mean probability on text is
            the one that their donor rows suggest. None does so where the base is run and the method goes by the donor's
            rows; with method auto, where it helps.
        text: Files that the report's coverage, priors, the choice of a method and fastText vectors are made from; none
            means Python's own text.
        seed: For the random choice of held-out anchors that the report scores, and for methods that draw.
    """

    method: str = "omp"
    k: int | None = None
    method_options: Mapping[str, Any] = field(default_factory=dict)
    map: Mapping[str, str] = field(default_factory=dict)
    numbers: Numbers = "donor"
    untie: bool = False
    pad_to_multiple_of: int | None = None
    dtype: str | None = None
    link: Link = "auto"
    device: str = "auto"
    exact: bool = False
    memory: str | None = None
    forward: bool | None = None
    calibrate: bool | None = None
    text: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        for name in ("k", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name}={value!r} must be a whole number of at least 1")
        for name, kind in (("seed", int), ("untie", bool), ("exact", bool), ("device", str)):
            if type(getattr(self, name)) is not kind:
                raise InputError(f"{name}={getattr(self, name)!r} must be of type {kind.__name__}")
        if self.memory is not None:
            parse_size(self.memory)
        for name in ("forward", "calibrate"):
            if type(value := getattr(self, name)) not in (bool, type(None)):
                raise InputError(f"{name}={value!r} must be true or false")
        if self.forward is False and (self.calibrate or self.method == "auto"):
            asks = "calibrate" if self.calibrate else "method auto"
            raise InputError(f"{asks} asks the base for its probabilities, and needs it to be run. Drop one of the two")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InputError(f"dtype={self.dtype!r} must be one of {', '.join(DTYPES)}")
        if self.numbers not in get_args(Numbers):
            raise InputError(f"numbers={self.numbers!r} must be one of {', '.join(get_args(Numbers))}")
        if self.link not in LINKS:
            raise InputError(f"link={self.link!r} must be one of {', '.join(LINKS)}")
        if not isinstance(self.map, Mapping) or not all(isinstance(v, str) for v in self.map.values()):
            raise InputError("map must be a table of donor token = base text")
        if not isinstance(self.text, (tuple, list)) or not all(isinstance(name, str) for name in self.text):
            raise InputError("text must be a list of file names")
        if not isinstance(self.method_options, Mapping):
            raise InputError("method_options must be a table of option = value")
        for name, copied in (("map", dict), ("method_options", dict), ("text", tuple)):
            object.__setattr__(self, name, copied(getattr(self, name)))  # plain ones: a mappingproxy is not picklable
        self.reconstruction()  # raises what it has to say
        if self.method not in ("omp", "auto") and (self.exact or self.memory is not None):
            raise InputError(
                f"method {self.method} takes no {'exact' if self.exact else 'memory'}; that is for omp's solver"
            )

    def __hash__(self) -> int:
        """Of equal options the same, whatever the order of their tables."""
        values = (getattr(self, f.name) for f in fields(self))
        return hash(tuple(frozenset(value.items()) if isinstance(value, dict) else value for value in values))

    def reconstruction(self) -> Method:
        """The method with its options."""
        k = {} if self.k is None else {"k": self.k}
        return make_method(self.method, {**self.method_options, **k})

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` as a number."""
        return parse_size(self.memory) if self.memory is not None else None

    def updated(self, changes: Mapping[str, Any]) -> TransplantOptions:
        """These options with some replaced; a ``map`` is merged into the present one."""
        known = {f.name for f in fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise InputError(f"unknown option {unknown[0]!r}; known are {', '.join(sorted(known))}")
        merged = dict(changes)
        for name, present in (("map", self.map), ("method_options", self.method_options)):
            if isinstance(merged.get(name), Mapping):
                merged[name] = {**present, **merged[name]}
        return replace(self, **merged)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {
            "map": dict(self.map),
            "method_options": dict(self.method_options),
            "text": list(self.text),
        }


def load_recipe(path: Path) -> TransplantOptions:
    """Options from a TOML file whose keys are those of `TransplantOptions`.

    Raises:
        InputError: If the file is missing, not TOML, or has an unknown key.
    """
    try:
        content = tomllib.loads(read_text(path))
    except FileNotFoundError as error:
        raise InputError(f"recipe {path} does not exist") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {path} is not valid TOML ({error})") from error
    try:
        return TransplantOptions().updated(content)
    except InputError as error:
        raise InputError(f"recipe {path}: {error}") from error
