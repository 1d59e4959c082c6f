"""Open two models, align their vocabularies, and summarise what they have in common. No weights are read here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokensurgeon.alignment import Alignment, align
from tokensurgeon.alignment.summary import CountedText, alignment_summary
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.errors import InputError
from tokensurgeon.surgery.options import Numbers, TransplantOptions
from tokensurgeon.transfer.rows import VocabularyMatrices
from tokensurgeon.vocabulary.edit.digits import PROBES, digit_tokens, is_digitwise, spaced_digits
from tokensurgeon.vocabulary.schemes import SchemeDifference, compare_schemes

__all__ = ["Pair", "align_models", "align_sides", "overrides_for", "summarise", "with_numbers"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models, aligned.

    Attributes:
        base: Keeps its body.
        donor: Gives the tokenizer.
        base_matrices: The base's vocabulary-sized tensors.
        donor_matrices: The donor's vocabulary-sized tensors.
        alignment: What both vocabularies have in common.
    """

    base: OpenModel
    donor: OpenModel
    base_matrices: VocabularyMatrices
    donor_matrices: VocabularyMatrices
    alignment: Alignment


def align_models(
    base: str, donor: str, options: TransplantOptions | None = None
) -> tuple[OpenModel, OpenModel, Alignment, list[SchemeDifference]]:
    """Align two models by their tokenizers alone; no weights are read or fetched.

    Example:
        >>> import tokensurgeon
        >>> base, donor, alignment, differences = tokensurgeon.align_models("base", "donor")
        >>> [difference.kind for difference in differences]
        ['whitespace', 'newlines']
    """
    options = options or TransplantOptions()
    left = OpenModel.open(base, "none")
    right = with_numbers(left, OpenModel.open(donor, "none"), options.numbers)
    return left, right, *align_sides(left, right, options)


def align_sides(
    base: OpenModel, donor: OpenModel, options: TransplantOptions | None = None
) -> tuple[Alignment, list[SchemeDifference]]:
    """The same of two models that are open."""
    options = options or TransplantOptions()
    sides, rows = (base.vocabulary, donor.vocabulary), donor.output_rows(options.pad_to_multiple_of)
    return align(*sides, n_rows=rows, overrides=overrides_for(donor, options)), compare_schemes(*sides)


def with_numbers(base: OpenModel, donor: OpenModel, numbers: Numbers) -> OpenModel:
    """The donor's side with the wanted way of cutting numbers; itself, where there is nothing to change.

    Args:
        base: Whose body was trained on numbers in its own way.
        donor: Whose ids it will have.
        numbers: ``donor`` changes nothing; ``base`` cuts them digit by digit, as the base must do.

    Raises:
        InputError: If the base does not do so, or the donor cannot.
    """
    if numbers == "donor" or (differing := _numbers_differ(base, donor)) is None:
        return donor
    if not is_digitwise(base.vocabulary):
        raise InputError(
            f"--numbers base: {base.name} does not cut numbers digit by digit itself ({differing}), "
            "and no other way can be given to a tokenizer. Leave it out"
        )
    tokenizer = donor.tokenizer.digit_by_digit()
    changed = replace(donor, tokenizer=tokenizer)
    left = _numbers_differ(base, changed)
    old, new = donor.vocabulary, changed.vocabulary
    other = next((p for p in PROBES if new.decode(new.encode(p)) != old.decode(old.encode(p))), None)
    if left or other:
        why = f"they are cut apart, it has no way to spell {other!r}" if other else f"it still cuts them so: {left}"
        raise InputError(f"--numbers base: {donor.name} has no token for each digit ({why}). Leave it out")
    return changed


def overrides_for(donor: OpenModel, options: TransplantOptions) -> dict[str, str]:
    """Donor token to the base text that it stands for: as the user said, and a word piece of a space and a digit."""
    return {**(spaced_digits(donor.vocabulary) if donor.tokenizer.digitwise else {}), **options.map}


def _numbers_differ(base: OpenModel, donor: OpenModel) -> str | None:
    """An example of a number that the two cut differently."""
    for scheme in compare_schemes(base.vocabulary, donor.vocabulary):
        if scheme.kind == "numbers":
            return "base `{}`, donor `{}`".format(*scheme.examples[-1])
    return None


def summarise(
    base: OpenModel,
    donor: OpenModel,
    alignment: Alignment,
    schemes: Sequence[SchemeDifference],
    texts: Mapping[str, CountedText] | None = None,
) -> dict[str, Any]:
    """What an alignment says about a pair, as plain data; ``texts`` adds how much of them anchors cover."""
    summary = alignment_summary(base.vocabulary, donor.vocabulary, alignment, schemes, texts or {})
    several = digit_tokens(donor.vocabulary)
    problems = {  # a model whose tokenizer is another's, changed, has the other's template
        str(side.tokenizer.chat_template): [side.name, side.vocabulary.roles.template_problem] for side in (donor, base)
    }
    return summary | {
        "templates": [[name, problem] for name, problem in problems.values() if problem],
        "bos": {"base": base.tokenizer.adds_bos(), "donor": donor.tokenizer.adds_bos()},
        "numbers": {
            "digit_by_digit": {"base": is_digitwise(base.vocabulary), "donor": not several},
            "changed": donor.tokenizer.digitwise,
            "tokens": len(several),
            "examples": [donor.vocabulary.describe(i) for i in several[:: max(1, len(several) // 4)][:4]],
        },
    }
