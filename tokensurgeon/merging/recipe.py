"""Read a recipe: an ordinary mergekit YAML, with one block for tokensurgeon."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from tokensurgeon.checkpoint.text import read_text
from tokensurgeon.errors import InputError
from tokensurgeon.merging.search.numbers import numbers_of
from tokensurgeon.surgery.options import TransplantOptions

__all__ = [
    "BLOCK",
    "Embeddings",
    "Recipe",
    "Slice",
    "Source",
    "lists",
    "mapped",
    "models_of",
    "parse_recipe",
    "read_recipe",
    "read_source",
    "slices_of",
]

BLOCK = "tokensurgeon"
Embeddings = Literal["first", "base", "average"]
_TAKEN = (
    "method", "k", "method_options", "map", "calibrate", "device", "exact", "memory", "forward", "text", "seed",
)  # fmt: skip
"""Of `TransplantOptions`; the others are about the one output of a transplant."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to merge, and in whose ids.

    Attributes:
        merge: mergekit's MergeConfiguration, without what it says about tokenizers.
        tokenizer: A reference to the model whose tokenizer all get; None for the base, or the first.
        union: Whether that tokenizer gets the tokens of all models.
        tokens: For tokens of the output whose row they get, as mergekit's recipes say it.
        multiple: The number of rows is rounded up to a multiple of this.
        embeddings: Whose row a token gets that some models know and others do not.
        options: How the others are transplanted.
        text: The recipe's own text, for the manifest.
    """

    merge: Any
    tokenizer: str | None
    union: bool
    tokens: Mapping[str, Any]
    multiple: int | None
    embeddings: Embeddings
    options: TransplantOptions
    text: str


class Source(NamedTuple):
    """What a slice of the output takes from one model.

    Attributes:
        model: The reference, as mergekit has it.
        layers: The first of its layers, and the one behind the last; None for the whole model.
    """

    model: Any
    layers: tuple[int, int] | None


class Slice(NamedTuple):
    """Layers of the output that are merged from the same models.

    Attributes:
        base: The reference of the base; None where there is none.
        sources: At least one.
    """

    base: Any
    sources: list[Source]

    @property
    def models(self) -> list[Any]:
        """The references of the sources."""
        return [source.model for source in self.sources]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; mergekit must be there.

    Raises:
        InputError: If the file is missing, no YAML, or has a key or value that neither side knows.
    """
    text, source = read_source(path)
    if found := numbers_of(source):
        raise InputError(f"recipe {path}: {found[0].name} is a number to search for. Give --search, or write a number")
    return parse_recipe(source, text, path)


def read_source(path: Path) -> tuple[str, dict[str, Any]]:
    """A recipe's text, and the table in it.

    Raises:
        InputError: If the file is missing, or no YAML.
    """
    import yaml

    try:
        text = read_text(path)
        source = yaml.safe_load(text)
    except (OSError, InputError) as error:
        raise InputError(f"recipe {path} cannot be read ({error})") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"recipe {path} is not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(source, dict):
        raise InputError(f"recipe {path} must be a table, such as mergekit's recipes are")
    return text, source


def parse_recipe(source: Mapping[str, Any], text: str, path: Path) -> Recipe:
    """A recipe from its table; mergekit must be there.

    Args:
        source: The table.
        text: What the manifest says of it.
        path: Where it was read from, for messages.

    Raises:
        InputError: If it has a key or value that neither side knows.
    """
    from mergekit.config import MergeConfiguration

    block, theirs = source.get(BLOCK), {name: value for name, value in source.items() if name != BLOCK}
    if not isinstance(block, dict | None):
        raise InputError(f"recipe {path}: {BLOCK} must be a table")
    try:
        parsed = MergeConfiguration.model_validate(theirs)
        _refuse_unknown(theirs, parsed, "")
        json.dumps(parsed.model_dump(), default=str, allow_nan=False)  # raises at weights that are no finite numbers
        tokenizer, embeddings, options = _ours(block or {})
        named = _their_tokenizer(parsed)
    except (ValueError, RuntimeError, TypeError) as error:  # pydantic's are ValueErrors; mergekit raises RuntimeError
        raise InputError(f"recipe {path}: {_reason(error)}") from error
    if tokenizer and named:
        raise InputError(f"recipe {path} names a tokenizer twice: {tokenizer} for {BLOCK}, {named} for mergekit")
    plain = parsed.model_copy(update={"tokenizer_source": None, "tokenizer": None})
    settings = parsed.tokenizer
    tokens = dict(settings.tokens or {}) if settings is not None else {}
    multiple = settings.pad_to_multiple_of if settings is not None else None
    union = (settings.source if settings is not None else parsed.tokenizer_source) == "union"
    return Recipe(plain, tokenizer or named, union, tokens, multiple, embeddings, options, text)


def _ours(block: Mapping[str, Any]) -> tuple[str | None, Embeddings, TransplantOptions]:
    known = ("tokenizer", "embeddings", *_TAKEN)
    unknown = sorted(str(name) for name in set(block) - set(known))
    if unknown:
        raise InputError(f"{BLOCK} has an unknown key {unknown[0]!r}; known are {', '.join(known)}")
    tokenizer, embeddings = block.get("tokenizer"), block.get("embeddings", "first")
    if not isinstance(tokenizer, str | None):
        raise InputError(f"{BLOCK}: tokenizer={tokenizer!r} must be a model: a directory, .gguf file or hub id")
    if embeddings not in get_args(Embeddings):
        raise InputError(f"{BLOCK}: embeddings={embeddings!r} must be one of {', '.join(get_args(Embeddings))}")
    chosen = {name: value for name, value in block.items() if name in _TAKEN}
    if isinstance(chosen.get("text"), str):
        chosen["text"] = [chosen["text"]]
    if isinstance(chosen.get("text"), list):
        chosen["text"] = tuple(chosen["text"])
    return tokenizer, cast(Embeddings, embeddings), TransplantOptions().updated(chosen)


def _their_tokenizer(parsed: Any) -> str | None:
    """The model that mergekit's own keys name; None for the base, or a union over it."""
    settings = parsed.tokenizer
    source = settings.source if settings is not None else parsed.tokenizer_source
    multiple = settings.pad_to_multiple_of if settings is not None else None
    if multiple is not None and multiple < 1:
        raise InputError(f"tokenizer: pad_to_multiple_of={multiple} must be at least 1")
    for token, said in (settings.tokens or {}).items() if settings is not None else ():
        if said.source is None:
            raise InputError(f"tokenizer: tokens: {token!r} needs a source: a model, model_token, or zero")
    if source == "base" and parsed.base_model is None:
        raise InputError("tokenizer: base takes the tokenizer of base_model, and the recipe has none. Name a model")
    return None if source in (None, "base", "union") else str(source)


def _refuse_unknown(raw: Any, node: Any, where: str) -> None:
    """What mergekit would ignore without a word."""
    if isinstance(raw, dict) and hasattr(type(node), "model_fields"):
        fields = type(node).model_fields
        for name, value in raw.items():
            if name not in fields:
                raise InputError(f"{where}{name} is unknown to mergekit; known there are {', '.join(fields)}")
            _refuse_unknown(value, getattr(node, name), f"{where}{name}.")
    elif isinstance(raw, dict) and isinstance(node, dict):
        for name, value in raw.items():
            _refuse_unknown(value, node.get(name), f"{where}{name}.")
    elif isinstance(raw, list) and isinstance(node, list):
        for number, (value, part) in enumerate(zip(raw, node, strict=True)):
            _refuse_unknown(value, part, f"{where}{number}.")


def _reason(error: Exception) -> str:
    listed = getattr(error, "errors", None)
    if callable(listed):
        first = listed()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
    return str(error)


def models_of(merge: Any) -> list[Any]:
    """All model references, the base first, then as they stand in the recipe, each once."""
    first = [merge.base_model] if merge.base_model is not None else []
    return list(dict.fromkeys([*first, *_references(merge)]))


def _references(node: Any) -> Iterator[Any]:
    from mergekit.common import ModelReference

    if isinstance(node, ModelReference):
        yield node
    elif isinstance(node, list | tuple):
        for part in node:
            yield from _references(part)
    elif isinstance(node, dict):
        yield from _references(list(node.values()))
    elif hasattr(type(node), "model_fields"):
        yield from _references([getattr(node, name) for name in type(node).model_fields])


def mapped(node: Any, replace: Callable[[Any], Any]) -> Any:
    """A copy of a configuration with every model reference replaced, wherever it stands."""
    from mergekit.common import ModelReference

    if isinstance(node, ModelReference):
        return replace(node)
    if isinstance(node, list):
        return [mapped(part, replace) for part in node]
    if isinstance(node, dict):
        return {name: mapped(part, replace) for name, part in node.items()}
    if hasattr(type(node), "model_fields"):
        parts = {name: mapped(getattr(node, name), replace) for name in type(node).model_fields}
        return node.model_copy(update=parts)
    return node


def slices_of(merge: Any) -> list[Slice]:
    """The output's slices, from the embedding to the head; one with whole models where the recipe names no layers.

    Raises:
        InputError: If the models have several modules (text and vision): only one has a vocabulary.
    """
    modules = list((merge.modules or {}).values())
    if len(modules) > 1:
        raise InputError(f"modules: {', '.join(merge.modules)}: models of several modules cannot be merged here")
    part = modules[0] if modules else merge
    if not part.slices:
        models = [entry.model for entry in part.models]
        models += [merge.base_model] if merge.base_model not in (None, *models) else []
        return [Slice(merge.base_model, [Source(model, None) for model in models])]
    return [
        Slice(out.base_model or merge.base_model, [Source(taken.model, taken.layer_range) for taken in out.sources])
        for out in part.slices
    ]


def lists(merge: Any, base: Any) -> bool:
    """Whether a base is one of the models that the recipe merges; mergekit adds to them one that is not."""
    part = next(iter(merge.modules.values())) if merge.modules else merge
    return bool(part.slices) or base in [entry.model for entry in part.models]
