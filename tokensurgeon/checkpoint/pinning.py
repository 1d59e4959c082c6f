"""Choose what tokenizer_config.json declares, so that AutoTokenizer loads the tokenizer that lies in the directory.

Many donors declare a class that builds its own way of cutting text around their vocabulary (`LlamaTokenizerFast` over
byte-level BPE, `GPT2Tokenizer`), or one that transformers does not have. For some model types, whose files on the hub
are often wrong (qwen2 among them), transformers takes the type's own class whatever the file says; it does heed the
file where ``auto_map`` names a class, and with ``trust_remote_code`` it then asks for that class.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.agreement import Expected, load
from tokensurgeon.checkpoint.layout import error_reason, read_config
from tokensurgeon.checkpoint.text import read_json_if_there, read_text, write_json, write_text
from tokensurgeon.checkpoint.tokenizer import TokenizerFiles
from tokensurgeon.errors import InputError

__all__ = ["PINNED", "Declaration", "choose_class"]

_CONFIG, _SETTINGS, _NATIVE = "config.json", "tokenizer_config.json", "tekken.json"
_PLAIN = "PreTrainedTokenizerFast"
"""Takes tokenizer.json as it is; known to transformers 4 and 5, which call it TokenizersBackend now."""
_AS_IT_IS = (_PLAIN, "TokenizersBackend", "PreTrainedTokenizer")
_CUTTING = ("split_special_tokens", "fix_mistral_regex", "add_prefix_space", "add_bos_token", "add_eos_token")
"""Settings by which a class may change what tokenizer.json says."""
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
PINNED = "tokenization_transplanted"
_CODE = '''"""The tokenizer as tokenizer.json has it, whatever the model's type."""

from transformers import PreTrainedTokenizerFast


class TransplantedTokenizer(PreTrainedTokenizerFast):
    """Nothing is added."""
'''


@dataclass(frozen=True, slots=True)
class Declaration:
    """What is written over a tokenizer's files.

    Attributes:
        settings: The whole ``tokenizer_config.json``; None leaves it as it is.
        pinned: Whether ``auto_map`` in there names a class of our own, whose code has to lie beside it.
        native: Whether ``tekken.json`` may stay, which transformers prefers for Mistral's types where it can.
    """

    settings: Mapping[str, Any] | None = None
    pinned: bool = False
    native: bool = True

    def write(self, directory: Path) -> None:
        """Put it in the place of what the tokenizer's files say."""
        if self.settings is None:
            return
        for code in directory.glob("tokenization_*.py"):
            code.unlink()
        if not self.native:
            (directory / _NATIVE).unlink(missing_ok=True)
        write_json(directory / _SETTINGS, self.settings)
        if self.pinned:
            write_text(directory / f"{PINNED}.py", _CODE)


@dataclass(frozen=True)
class _Case:
    """A tokenizer on a body, known by content."""

    key: tuple[object, ...]
    files: TokenizerFiles = field(compare=False)
    config: str = field(compare=False)
    kind: str = field(compare=False)
    foreign: bool = True


def choose_class(files: TokenizerFiles, body: Path, *, foreign: bool = True) -> Declaration:
    """Find what makes AutoTokenizer do as tokenizer.json says.

    What is put around a text may also be what the donor's own directory gives, where that cuts text as it must. The
    same tokenizer on the same body is not tried twice in a row.

    Args:
        files: The donor's.
        body: The base's directory, for its ``config.json``: its type decides too.
        foreign: Whether the tokenizer is another body's. What it declares stays, if it works; but a class that is
            not the one that is loaded, and others may know or not, gives way unless the tokenizer is the body's own.

    Raises:
        InputError: If nothing does.
    """
    config = read_text(body / _CONFIG)
    place = files.directory / _SETTINGS
    settings = read_text(place) if place.is_file() else ""
    kind = str(read_config(body).get("model_type", ""))
    return _chosen(_Case((files.directory, files.digest(), settings, config), files, config, kind, foreign))


@lru_cache(maxsize=2)
def _chosen(case: _Case) -> Declaration:
    files, trial = case.files, _Trial(case.files)
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-class-") as name:
        place = Path(name)
        files.write(place, code=not case.foreign)
        write_text(place / _CONFIG, case.config)
        before = read_json_if_there(place / _SETTINGS)
        first, fault = trial.of(place)
        if fault is None and (not case.foreign or _is_settled(before, type(first).__name__)):
            return Declaration()
        native = type(first).__name__ != "MistralCommonBackend"
        last = fault
        for declaration in _candidates(_plain_settings(before, first, files), case.kind, native):
            declaration.write(place)
            _, last = trial.of(place)
            if last is None:
                return declaration
    if fault is None:
        return Declaration()
    raise InputError(
        f"{files.directory}: AutoTokenizer cannot be made to cut text as tokenizer.json does beside a model of type "
        f"{case.kind!r} ({last}). Take another donor, or save this one's tokenizer again as a {_PLAIN}"
    )


class _Trial:
    """Loads a directory's tokenizer, and holds it against tokenizer.json and the donor's own directory."""

    def __init__(self, files: TokenizerFiles) -> None:
        self._files, self._expected = files, Expected.of(files.plain())

    def of(self, place: Path) -> tuple[Any, str | None]:
        """The tokenizer, None where there is none, and what is wrong with it."""
        try:
            loaded = load(place)
            if fault := self._expected.missed(loaded):
                return loaded, fault
            fault = self._expected.framed_otherwise(loaded)
            like_own = fault and self._own is not None and self._expected.framed_like(loaded, self._own)
            return loaded, None if like_own else fault
        except Exception as error:  # whatever a class raises at files that are not its own
            return None, error_reason(error)

    @cached_property
    def _own(self) -> Any:
        """What the donor's own directory gives; None where it does not cut text as tokenizer.json does."""
        try:
            loaded = load(self._files.directory)
            return None if self._expected.missed(loaded) else loaded
        except Exception:
            return None  # as the donor's own users have it


def _is_settled(settings: Mapping[str, Any], name: str) -> bool:
    """Whether a declaration that works can stay: it names the class that is loaded."""
    declared = settings.get("tokenizer_class")
    return declared is None or declared in _AS_IT_IS or name == str(declared).removesuffix("Fast")


def _plain_settings(settings: Mapping[str, Any], loaded: Any, files: TokenizerFiles) -> dict[str, Any]:
    """Settings with the plain class, and with what the declared one says by itself."""
    kept = {name: value for name, value in settings.items() if name != "auto_map"}
    declared = str(settings.get("tokenizer_class", ""))
    if loaded is not None and type(loaded).__name__ == declared.removesuffix("Fast"):
        known = files.declared
        for name in _TOKENS:
            token = getattr(loaded, name, None)
            if name not in known and token is not None and files.tokenizer.token_to_id(str(token)) is not None:
                kept[name] = str(token)
        kept.setdefault("padding_side", loaded.padding_side)
    if declared not in _AS_IT_IS:  # transformers 4 would give token_type_ids besides, at which language models stumble
        kept.setdefault("model_input_names", ["input_ids", "attention_mask"])
    return kept | {"tokenizer_class": _PLAIN}


def _candidates(settings: Mapping[str, Any], kind: str, native: bool) -> Iterator[Declaration]:
    """From what changes little to what changes much."""
    from transformers.models.auto import tokenization_auto

    bare = {name: value for name, value in settings.items() if name not in _CUTTING}
    doubted = getattr(tokenization_auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", ())
    imposed = tokenization_auto.TOKENIZER_MAPPING_NAMES.get(kind) if kind in doubted else None
    for variant in [settings, bare] if len(bare) < len(settings) else [settings]:
        if imposed in (None, *_AS_IT_IS):
            yield Declaration(variant, native=native)
        else:
            code = {"AutoTokenizer": [None, f"{PINNED}.TransplantedTokenizer"]}
            yield Declaration({**variant, "auto_map": code}, pinned=True, native=native)
