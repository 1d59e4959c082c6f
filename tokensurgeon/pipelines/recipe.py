"""Find the models and files that a merge recipe names, and write a recipe that stands in a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.resolve import resolve
from tokensurgeon.checkpoint.text import write_text
from tokensurgeon.errors import InputError
from tokensurgeon.merging.mergekit import require_mergekit
from tokensurgeon.merging.preflight import READS
from tokensurgeon.merging.recipe import models_of, parse_recipe, read_source
from tokensurgeon.merging.search.numbers import filled_in, numbers_of
from tokensurgeon.pipelines.record import Weights

__all__ = ["named_in_recipe", "write_recipe"]


def named_in_recipe(recipe: Any, search: bool) -> tuple[list[tuple[str, Weights]], list[Path]]:
    """The models that a recipe names, and the files: its own, adapters, texts, and what merge methods read.

    Of a model that only gives its tokenizer the vocabulary alone is read.

    Args:
        recipe: A file, or the table itself.
        search: Whether numbers in it are to be searched for.

    Raises:
        MissingDependencyError: Without mergekit.
        InputError: If it is no recipe.
    """
    require_mergekit()
    path = Path("recipe" if isinstance(recipe, Mapping) else str(recipe)).expanduser()
    source = recipe if isinstance(recipe, Mapping) else read_source(path)[1]
    numbers = numbers_of(source)
    if numbers and not search:
        raise InputError(f"recipe {path}: {numbers[0].name} is a number to search for. Give search: true")
    read = parse_recipe(filled_in(source, numbers, [one.start for one in numbers]), "", path)
    models: list[tuple[str, Weights]] = []
    files = [] if isinstance(recipe, Mapping) else [path]
    references = models_of(read.merge)
    for reference in references:
        models.append((str(reference.model), "all"))
        if reference.lora is not None:
            adapter = resolve(str(reference.lora), weights="adapter")
            files += sorted(entry for entry in adapter.iterdir() if entry.is_file())
    if read.tokenizer is not None and read.tokenizer not in map(str, references):
        models.append((read.tokenizer, "vocabulary"))
    files += [Path(name).expanduser() for name in dict.fromkeys(_read_by_methods(source))]
    return models, [*files, *(Path(text).expanduser() for text in read.options.text)]


def _read_by_methods(node: Any, *, inside: bool = False) -> Iterator[str]:
    """The files of coefficients and Fisher information that ``parameters`` name, wherever these stand."""
    if isinstance(node, list):
        for part in node:
            yield from _read_by_methods(part, inside=inside)
    elif isinstance(node, Mapping):
        for name, part in node.items():
            if inside and name in READS.values():
                yield from _texts(part)
            else:
                yield from _read_by_methods(part, inside=inside or name == "parameters")


def _texts(value: Any) -> Iterator[str]:
    """The value of a parameter; it may be given for some tensors only, in tables with ``value``."""
    for part in value if isinstance(value, list) else [value]:
        part = part.get("value") if isinstance(part, Mapping) else part
        if isinstance(part, str):
            yield part


def write_recipe(recipe: Mapping[str, Any], path: Path) -> None:
    """Write a table as a file that mergekit reads too; what aliases repeat is written once."""
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))
