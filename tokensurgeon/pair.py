"""Two models as far as their vocabularies go: opened, aligned, summarised. No weights are read here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensurgeon.alignment import Alignment, align
from tokensurgeon.checkpoint import TokenizerFiles, resolve
from tokensurgeon.checkpoint.settings import vocab_size
from tokensurgeon.config import TransplantOptions
from tokensurgeon.report.alignment import alignment_summary
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.schemes import SchemeDifference, compare_schemes

__all__ = ["Side", "align_models", "open_side", "output_rows", "summarise"]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models, as far as its vocabulary goes."""

    name: str
    directory: Path
    files: TokenizerFiles
    vocabulary: Vocabulary


def open_side(reference: str, weights: str) -> Side:
    """Resolve a model and read its tokenizer."""
    directory = resolve(reference, weights=weights)
    files = TokenizerFiles.open(directory)
    name = Path(reference).expanduser().resolve().name if Path(reference).expanduser().exists() else reference
    return Side(name, directory, files, files.vocabulary())


def output_rows(donor: Side, multiple: int | None) -> int:
    """Rows of the output: the donor's ``config.vocab_size``, or its tokens rounded up."""
    if multiple is not None:
        return -(-len(donor.vocabulary) // multiple) * multiple
    known = vocab_size(donor.directory) if (donor.directory / "config.json").is_file() else None
    return known or len(donor.vocabulary)


def align_models(
    base: str, donor: str, options: TransplantOptions | None = None
) -> tuple[Side, Side, Alignment, list[SchemeDifference]]:
    """Align two models by their tokenizers alone; no weights are read or fetched."""
    options = options or TransplantOptions()
    left, right = open_side(base, "none"), open_side(donor, "none")
    rows = output_rows(right, options.pad_to_multiple_of)
    aligned = align(left.vocabulary, right.vocabulary, n_rows=rows, overrides=options.map)
    return left, right, aligned, compare_schemes(left.vocabulary, right.vocabulary)


def summarise(
    base: Side,
    donor: Side,
    alignment: Alignment,
    schemes: Sequence[SchemeDifference],
    texts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What an alignment says about a pair, as plain data; ``texts`` adds how much of them anchors cover."""
    summary = alignment_summary(base.vocabulary, donor.vocabulary, alignment, schemes, texts or {})
    return summary | {"bos": {"base": base.files.adds_bos(), "donor": donor.files.adds_bos()}}
