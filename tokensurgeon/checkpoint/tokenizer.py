"""Read the tokenizer in a model directory as bytes and roles, and copy it whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tokensurgeon.checkpoint.declared import completed
from tokensurgeon.checkpoint.emitted import remembered
from tokensurgeon.checkpoint.foreign import copy_if_there, taken_files
from tokensurgeon.checkpoint.ids import SPECIAL
from tokensurgeon.checkpoint.limits import LONGEST_TEMPLATE, refuse_long
from tokensurgeon.checkpoint.names import TOKENIZER_FILES
from tokensurgeon.checkpoint.slow import SLOW_FILES, convert_slow
from tokensurgeon.checkpoint.text import (
    read_json,
    read_json_if_there,
    read_text,
    write_json,
    write_text,
)
from tokensurgeon.checkpoint.tokenizer_json import load_tokenizer, naming
from tokensurgeon.errors import InputError
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.edit.digits import digitwise_spec
from tokensurgeon.vocabulary.plain import plain_tokenizer
from tokensurgeon.vocabulary.token import literal_of

__all__ = ["TokenizerFiles"]

_OTHER_SPELLINGS = (*SLOW_FILES, "merges.txt", "tekken.json")
"""Files from which a tokenizer can be made too."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A directory's tokenizer.

    Attributes:
        directory: Where it lies.
        tokenizer: The fast tokenizer, from ``tokenizer.json`` or converted from slow files.
        declared: ``tokenizer_config.json`` merged with ``special_tokens_map.json``.
        chat_template: The default chat template, if any.
        converted: A transformers tokenizer, where the files were slow ones; None otherwise.
        digitwise: Whether the files cut numbers otherwise, and ``tokenizer`` cuts them digit by digit.
        completed: Whether ``tokenizer.json`` leaves out control tokens that the settings declare.
    """

    directory: Path
    tokenizer: Tokenizer
    declared: dict[str, Any]
    chat_template: str | None
    converted: Any = None
    digitwise: bool = False
    completed: bool = False

    @classmethod
    def open(cls, directory: Path) -> TokenizerFiles:
        """Read the tokenizer of a model directory.

        Raises:
            InputError: If there is none, or it is damaged.
        """
        declared = {
            **read_json_if_there(directory / "special_tokens_map.json"),
            **read_json_if_there(directory / "tokenizer_config.json"),
        }
        template = _template(directory, declared.get("chat_template"))
        path = directory / "tokenizer.json"
        if path.is_file():
            tokenizer = load_tokenizer(path)
            whole = completed(tokenizer, declared)
            return cls(directory, whole or tokenizer, declared, template, completed=whole is not None)
        slow = convert_slow(directory, declared)
        own = {name: str(token) for name, token in slow.special_tokens_map.items() if isinstance(token, str)}
        template = template or getattr(slow, "chat_template", None)
        return cls(directory, slow.backend_tokenizer, own | declared, template, slow)

    def vocabulary(self) -> Vocabulary:
        """The vocabulary as bytes and roles.

        Raises:
            InputError: If the tokenizer cannot be read as such, or breaks on a text.
        """
        file = self.directory / "tokenizer.json"
        with naming(file if file.is_file() else self.directory):
            return Vocabulary.from_tokenizer(self.tokenizer, self.declared, self.chat_template, remembered)

    def plain(self) -> Tokenizer:
        """The fast tokenizer without the truncation, padding and dropout that its file may ask for."""
        return plain_tokenizer(self.tokenizer)

    def digit_by_digit(self) -> TokenizerFiles:
        """The same tokenizer, but that it cuts numbers digit by digit; see `tokensurgeon.vocabulary.edit.digits`."""
        changed = digitwise_spec(json.loads(self.tokenizer.to_str()))
        return replace(self, tokenizer=Tokenizer.from_str(json.dumps(changed)), digitwise=True)

    def special_ids(self) -> dict[str, int]:
        """Ids of the declared special tokens, by name (``bos_token``, ``eos_token``, ...)."""
        found = {}
        for name in (setting.removesuffix("_id") for setting in SPECIAL):
            literal = literal_of(self.declared.get(name))
            token_id = None if literal is None else self.tokenizer.token_to_id(literal)
            if token_id is not None:
                found[name] = token_id
        return found

    def adds_bos(self) -> bool:
        """Whether encoding a text puts BOS before it without being asked."""
        bos = self.special_ids().get("bos_token")
        return bos is not None and self.plain().encode("a").ids[:1] == [bos]

    def write(self, out: Path, *, code: bool = False) -> None:
        """Copy the tokenizer's files, or save the converted ones; without what would cut text as it did before.

        Args:
            out: An existing directory.
            code: Whether Python files go with it, and the ``auto_map`` that names them: only where the output is of
                whoever wrote them. The tokenizer works without.
        """
        if self.converted is not None:
            self.converted.save_pretrained(out)
            settings = read_json(out / "tokenizer_config.json")
            if settings.get("tokenizer_class") == "TokenizersBackend":  # a name that transformers 4 does not know
                write_json(out / "tokenizer_config.json", settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
        else:
            for name in TOKENIZER_FILES:
                copy_if_there(self.directory / name, out / name)
            for path in taken_files(self.directory) if code else ():
                if path.match("tokenization_*.py"):
                    shutil.copyfile(path, out / path.name)
        _drop_code(out, keep=code)
        if self.digitwise:
            self._replace(out)
        elif self.completed:
            write_text(out / "tokenizer.json", self.tokenizer.to_str(pretty=True))
        if getattr(self.tokenizer.model, "dropout", None) is not None:
            _without_dropout(out / "tokenizer.json")

    def _replace(self, out: Path) -> None:
        """Put the changed tokenizer in the place of the files as they were."""
        for path in (*(out / name for name in _OTHER_SPELLINGS), *out.glob("tokenization_*.py")):
            path.unlink(missing_ok=True)
        write_text(out / "tokenizer.json", self.tokenizer.to_str(pretty=True))
        settings = read_json_if_there(out / "tokenizer_config.json") | {"tokenizer_class": "PreTrainedTokenizerFast"}
        settings.pop("auto_map", None)  # classes that build their own way of cutting, like those with a name
        write_json(out / "tokenizer_config.json", settings)

    def digest(self) -> str:
        """SHA-256 of the fast tokenizer."""
        return _digest(self.tokenizer)


@lru_cache(maxsize=3)
def _digest(tokenizer: Tokenizer) -> str:
    """As `TokenizerFiles.digest`; nobody changes a tokenizer that was opened, and the largest take half a second."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def _template(directory: Path, declared: Any) -> str | None:
    """The default chat template: that of a file of its own comes before what ``tokenizer_config.json`` declares."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        refuse_long(path, LONGEST_TEMPLATE)
        return read_text(path)
    if isinstance(declared, list):  # several named templates
        named = (entry for entry in declared if isinstance(entry, dict) and entry.get("name") == "default")
        declared = next((entry.get("template") for entry in named), None)
    if not isinstance(declared, str):
        return None
    if len(declared) > LONGEST_TEMPLATE:
        raise InputError(
            f"{directory / 'tokenizer_config.json'}: its chat_template has {len(declared):,} characters, and no honest "
            f"one more than {LONGEST_TEMPLATE:,}. Remove it, or fetch the file again"
        )
    return declared


def _without_dropout(path: Path) -> None:
    """Let a tokenizer cut text the same way each time: merges are left out by chance for training only."""
    spec = read_json(path)
    spec["model"]["dropout"] = None
    write_json(path, spec)


def _drop_code(out: Path, *, keep: bool) -> None:
    """Let the settings name no code; to be kept, it must lie there, or in a repository of the hub."""
    settings = read_json_if_there(out / "tokenizer_config.json")
    named = settings.get("auto_map", {})
    values = named.values() if isinstance(named, dict) else [named]
    code = [one for value in values for one in (value if isinstance(value, list) else [value])]
    there = all("--" in one or (out / f"{one.partition('.')[0]}.py").is_file() for one in code if isinstance(one, str))
    if "auto_map" in settings and not (keep and there):
        write_json(out / "tokenizer_config.json", {n: value for n, value in settings.items() if n != "auto_map"})
