"""What the control tokens of real tokenizers are for, and which rows of every other one they take: a golden file.

    python -m benchmarks.experiments.control_tokens benchmarks/experiments/control_tokens.toml

No weights are read, so that turn markers that a base was never trained on count here; a transplant knows better.
"""

from __future__ import annotations

import itertools
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.common import models
from benchmarks.common.provenance import provenance
from benchmarks.common.tokenizers import npm_tokenizer
from benchmarks.experiments.compare import RESULTS
from tokensurgeon import Vocabulary, align
from tokensurgeon.alignment.summary import became
from tokensurgeon.checkpoint import TokenizerFiles


def described(vocabulary: Vocabulary) -> dict[str, list[str]]:
    """Literals by role."""
    return {role.value: [str(vocabulary.pieces[i]) for i in ids] for role, ids in vocabulary.roles.ids.items()}


def mapped(base: Vocabulary, donor: Vocabulary) -> dict[str, Any]:
    """What every control token with a role becomes, which of them stand for no turn of the base, and which begins."""
    aligned = align(base, donor)
    found = {str(donor.pieces[i]): became(i, base, aligned) for i in sorted(donor.roles.of())}
    return {
        "tokens": {literal: row.removeprefix("the base's ") for literal, row in found.items()},
        "foreign": [donor.pieces[i] for i in aligned.foreign],
        "beginning": None if aligned.beginning is None else donor.pieces[aligned.beginning],
    }


def measure(experiment: dict[str, Any]) -> dict[str, Any]:
    """Roles of each tokenizer and the mapping of each ordered pair."""
    places = {name: getattr(models, name)() for name in experiment["models"]}
    places |= {name: npm_tokenizer(package) for name, package in experiment["npm"].items()}
    vocabularies = {name: TokenizerFiles.open(place).vocabulary() for name, place in places.items()}
    return {
        "tokenizers": {name: described(vocabulary) for name, vocabulary in vocabularies.items()},
        "pairs": {
            f"{donor} onto {base}": mapped(vocabularies[base], vocabularies[donor])
            for base, donor in itertools.permutations(vocabularies, 2)
        },
    }


def main(path: Path, results: Path = RESULTS) -> None:
    """Write the result of an experiment file."""
    experiment = tomllib.loads(path.read_text())
    result = provenance(path.stem) | {"settings": experiment} | measure(experiment)
    results.mkdir(exist_ok=True)
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
