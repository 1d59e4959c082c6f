"""Check what a transplant or an extension is asked for, and read such wishes from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from tokensurgeon.baselines import make_method, names_needing, with_options
from tokensurgeon.checkpoint.linking import LINKS, Link
from tokensurgeon.checkpoint.text import read_text
from tokensurgeon.errors import InputError
from tokensurgeon.solver.memory import parse_size
from tokensurgeon.transfer.protocol import Method, Resources

__all__ = ["Auto", "ExtendOptions", "MethodOptions", "Numbers", "TransplantOptions", "load_recipe"]

Numbers = Literal["donor", "base"]
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Auto:
    """The wish that a method be chosen by text (`tokensurgeon.surgery.auto`).

    Attributes:
        minutes: Candidates whose rows would take longer are left out. The trials come on top.
    """

    minutes: float = 60.0


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """How new rows are made: what a transplant and an extension both take.

    Attributes:
        method: How tokens that the base lacks are reconstructed, a name of `tokensurgeon.baselines`.
        k: Anchors per reconstructed token, for methods that take it; None is the method's default.
        method_options: Further options of the method.
        device: Where to solve: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        exact: Prove that every pick is the one of Orthogonal Matching Pursuit in float32.
        memory: Work space of the solver in each process, such as ``4GiB``; None takes half of what is free.
        text: Files in UTF-8 that are like what the model will read.
        seed: For methods that draw, and for the choice of held-out anchors that the report scores.
    """

    method: str = "omp"
    k: int | None = None
    method_options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    exact: bool = False
    memory: str | None = None
    text: Sequence[str | PathLike[str]] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no run could use; copy tables and lists, which the caller may change later."""
        self._check_count("k")
        for name, kind in (("seed", int), ("exact", bool), ("device", str)):
            self._check_type(name, kind)
        if self.memory is not None:
            parse_size(self.memory)
        if not isinstance(self.text, (tuple, list)) or not all(isinstance(name, str | PathLike) for name in self.text):
            raise InputError("text must be a list of file names")
        if not isinstance(self.method_options, Mapping):
            raise InputError("method_options must be a table of option = value")
        object.__setattr__(self, "method_options", dict(self.method_options))  # a mappingproxy cannot be pickled
        object.__setattr__(self, "text", tuple(map(fspath, self.text)))
        _ = self.auto or self.reconstruction()  # raises what it has to say
        if self.method not in ("omp", "auto") and (self.exact or self.memory is not None):
            raise InputError(
                f"method {self.method} takes no {'exact' if self.exact else 'memory'}; that is for omp's solver"
            )

    def __hash__(self) -> int:
        """Of equal options the same, whatever the order of their tables."""
        values = (getattr(self, f.name) for f in fields(self))
        return hash(tuple(frozenset(value.items()) if isinstance(value, dict) else value for value in values))

    @property
    def auto(self) -> Auto | None:
        """The wish that a method be chosen, if it is one."""
        return with_options(Auto, "auto", self._given()) if self.method == "auto" else None

    def reconstruction(self) -> Method:
        """The method with its options; not for ``auto``, which is to be chosen first."""
        return make_method(self.method, self._given())

    def _given(self) -> dict[str, Any]:
        return {**self.method_options, **({} if self.k is None else {"k": self.k})}

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` as a number."""
        return parse_size(self.memory) if self.memory is not None else None

    def resources(self, device: torch.device) -> Resources:
        """What a fit may use, on a device."""
        return Resources(device, self.exact, self.memory_bytes, self.seed)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {n: list(v) if isinstance(v, tuple) else dict(v) if isinstance(v, dict) else v for n, v in found.items()}

    def _check_count(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"{name}={value!r} must be a whole number of at least 1")

    def _check_type(self, name: str, kind: type) -> None:
        if type(value := getattr(self, name)) is not kind:
            raise InputError(f"{name}={value!r} must be of type {kind.__name__}")


@dataclass(frozen=True, slots=True)
class TransplantOptions(MethodOptions):
    """What a transplant takes.

    Attributes:
        method: How tokens that the base lacks are reconstructed, a name of `tokensurgeon.baselines`; ``auto`` tries
            some on text and takes the best.
        k: Anchors per reconstructed token, for methods that take it; None is the method's default.
        method_options: Further options of the method.
        device: Where to solve: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        exact: Prove that every pick is the one of Orthogonal Matching Pursuit in float32.
        memory: Work space of the solver in each process, such as ``4GiB``; None takes half of what is free.
        text: Files that the report's coverage, priors, the choice of a method and fastText vectors are made from; none
            means Python's own text.
        seed: For methods that draw, and for the choice of held-out anchors that the report scores.
        map: Donor token to the base text that it stands for.
        numbers: ``donor`` leaves its tokenizer as it is. ``base`` makes it cut numbers digit by digit, where the base
            does so and it does not; tokens with several digits are never emitted then.
        untie: Write a separate LM head although the base has none.
        pad_to_multiple_of: Round the number of tokens up to this, instead of the donor's ``config.vocab_size``.
        dtype: Convert the output's floating tensors; None keeps the base's.
        link: How shards of which nothing changes get into the output: ``hard`` (a link, the same file), ``copy``, or
            ``auto``: cloned where the file system can, otherwise linked, otherwise copied.
        forward: Whether the models are run: the base for the row that takes no probability, the output to see that
            it works. None runs those with a body of up to 2 GiB, and larger ones where a GPU has room for them or a
            processor takes minutes (`tokensurgeon.evaluation.policy`); the others' bodies are not read.
        calibrate: Shift the logits of reconstructed tokens so that their mean probability on text is
            the one that their donor rows suggest. None does so where the base is run and the method goes by the donor's
            rows; with method auto, where it helps.
        score: Whether base and output predict a little text, where they are run, so that the loss is known.

    Example:
        >>> TransplantOptions(method="ridge", map={"<|user|>": "User:"}).as_dict()["map"]
        {'<|user|>': 'User:'}
    """

    map: Mapping[str, str] = field(default_factory=dict)
    numbers: Numbers = "donor"
    untie: bool = False
    pad_to_multiple_of: int | None = None
    dtype: str | None = None
    link: Link = "auto"
    forward: bool | None = None
    calibrate: bool | None = None
    score: bool = True

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        self._check_count("pad_to_multiple_of")
        self._check_type("untie", bool)
        self._check_type("score", bool)
        for name in ("forward", "calibrate"):
            if type(value := getattr(self, name)) not in (bool, type(None)):
                raise InputError(f"{name}={value!r} must be true or false")
        if self.forward is False and (self.calibrate or self.method == "auto"):
            asks = "calibrate" if self.calibrate else "method auto"
            raise InputError(f"{asks} asks the base for its probabilities, and needs it to be run. Drop one of the two")
        for name, known in (("dtype", (None, *DTYPES)), ("numbers", get_args(Numbers)), ("link", LINKS)):
            if (value := getattr(self, name)) not in known:
                raise InputError(f"{name}={value!r} must be one of {', '.join(filter(None, known))}")
        if not isinstance(self.map, Mapping) or not all(isinstance(v, str) for v in self.map.values()):
            raise InputError("map must be a table of donor token = base text")
        object.__setattr__(self, "map", dict(self.map))
        MethodOptions.__post_init__(self)  # without `super`, which a class with slots does not find

    __hash__ = MethodOptions.__hash__

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


@dataclass(frozen=True, slots=True)
class ExtendOptions(MethodOptions):
    """What an extension takes.

    Attributes:
        method: How the new rows are made; by default ``omp`` where there is a donor, otherwise ``subtoken``.
        k: Anchors per new token, for methods that take it; None is the method's default.
        method_options: Further options of the method.
        device: Where to solve: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        exact: Prove that every pick is the one of Orthogonal Matching Pursuit in float32.
        memory: Work space of the solver, such as ``4GiB``; None takes half of what is free.
        text: Files in UTF-8 to learn from (with ``add``), or to measure on (with ``tokens``).
        seed: For methods that draw.
        tokens: A file with one new token per line; a space at the beginning of a line counts.
        add: Tokens to learn from nine tenths of the text; the rest is held out.
        donor: A model that may have rows for the new tokens. Those that it lacks are made of their own pieces.
        special: Literals of special tokens to add, each with the words whose rows' mean it gets; ``""`` where it
            stands for none: it gets the donor's row by its literal, or else the mean of the model's control rows.

    Example:
        >>> ExtendOptions(special={"<think>": "think", "</think>": ""}).special["<think>"]
        'think'
    """

    method: str = ""
    tokens: str | PathLike[str] | None = None
    add: int | None = None
    donor: str | None = None
    special: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        if not self.method:
            object.__setattr__(self, "method", "subtoken" if self.donor is None else "omp")
        if not isinstance(self.special, Mapping) or not all(isinstance(v, str) for v in self.special.values()):
            raise InputError("special must be a table of literal = words, which may be empty")
        object.__setattr__(self, "special", dict(self.special))
        if self.tokens is not None and self.add is not None:
            raise InputError("say what to add: --tokens FILE, or --text FILE and --add N, and not both")
        if self.tokens is None and self.add is None and not self.special:
            raise InputError("say what to add: --tokens FILE, or --text FILE and --add N, or --special LITERAL")
        if self.add is not None and not self.text:
            raise InputError(f"--add {self.add} needs a text to learn from. Give --text FILE")
        self._check_count("add")
        if self.tokens is not None:
            object.__setattr__(self, "tokens", fspath(self.tokens))
        MethodOptions.__post_init__(self)
        own = names_needing("nothing", "text")
        needs = "auto" if self.auto else self.reconstruction().needs
        if needs in ("auto", "fasttext"):
            wish = "method auto" if self.auto else "space=fasttext"
            raise InputError(f"{wish} is for transplants; here --method {own} need no donor")
        if self.donor is None and needs == "donor":
            raise InputError(f"method {self.method} goes by a donor's embedding. Give --donor, or --method {own}")
        if self.donor is not None and needs != "donor":
            raise InputError(f"method {self.method} does not ask a donor. Leave out --donor, or give --method omp")

    __hash__ = MethodOptions.__hash__


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
