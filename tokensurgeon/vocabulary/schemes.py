"""Compare how two tokenizers cut numbers, whitespace and newlines: where they differ, skills get lost.

Goddard and Fernandes Neto (arXiv 2506.06607, section 5) trace most of the lost arithmetic to number
schemes that differ: digit by digit, in threes, or merged freely.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokensurgeon.vocabulary.edit.digits import PROBES
from tokensurgeon.vocabulary.vocabulary import Vocabulary

__all__ = ["SchemeDifference", "compare_schemes"]

_PROBES = {
    "numbers": PROBES,
    "whitespace": ("a b", "  x", "    x", "        return", "\tx", "\t\tx", "a  b", "x "),
    "newlines": ("a\nb", "a\n\nb", "a\n\n\nb", "a.\n\nb", "{\n    x\n}", "a\r\nb"),
}


@dataclass(frozen=True, slots=True)
class SchemeDifference:
    """One kind of text that the two tokenizers cut differently.

    Attributes:
        kind: ``numbers``, ``whitespace`` or ``newlines``.
        differing: How many probes are cut differently.
        probes: How many were tried.
        examples: (base's pieces, donor's pieces) of the first differing probes.
    """

    kind: str
    differing: int
    probes: int
    examples: tuple[tuple[str, str], ...]


def compare_schemes(base: Vocabulary, donor: Vocabulary) -> list[SchemeDifference]:
    """Cut probe strings with both tokenizers and report each kind in which they disagree."""
    found = []
    for kind, probes in _PROBES.items():
        cuts = [(_cut(base, probe), _cut(donor, probe)) for probe in probes]
        differing = [
            (" ".join(map(_show, b)), " ".join(map(_show, d)))
            for b, d in cuts
            if [x.strip(b" ") for x in b if x.strip(b" ")] != [x.strip(b" ") for x in d if x.strip(b" ")]
            or (kind != "numbers" and b != d)
        ]
        if differing:
            found.append(SchemeDifference(kind, len(differing), len(probes), tuple(differing[:4])))
    return found


def _cut(vocabulary: Vocabulary, text: str) -> list[bytes]:
    keys = [vocabulary.keys[i] for i in vocabulary.encode(text)]
    return [k.data for k in keys if k is not None]


def _show(data: bytes) -> str:
    text = data.decode("utf-8", "backslashreplace")
    for raw, shown in ((" ", "␣"), ("\n", "⏎"), ("\r", "␍"), ("\t", "⇥")):
        text = text.replace(raw, shown)
    return text
