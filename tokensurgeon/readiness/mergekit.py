"""Check what mergekit demands of MODEL as one input of a merge and of the target as another."""

from __future__ import annotations

from collections.abc import Iterator

from tokensurgeon.readiness.common import ids_in_range, rows_as_configured, same_ids
from tokensurgeon.readiness.model import Candidate, Rule

__all__ = ["rules"]


def rules(model: Candidate, target: Candidate | None) -> Iterator[Rule]:
    """Rules of mergekit 0.1.5 (file names below ``mergekit``)."""
    names = model.config.get("architectures") or []
    yield Rule(
        "config.json names one architecture", len(names) == 1, ", ".join(names) or "none",
        "leave one name in architectures in config.json", "architecture/__init__.py, arch_info_for_config",
    )  # fmt: skip
    yield ids_in_range(model, "tokenizer/embed.py: asserts src_token_id < rows, in merges with a tokenizer section")
    yield rows_as_configured(model, "assumed: the merge has the first model's config.json (merge.py)")
    if target is None:
        return
    theirs = target.config.get("architectures") or []
    yield Rule(
        "same architecture as the target", names == theirs, f"{', '.join(names)}, target {', '.join(theirs)}",
        "merge models of one architecture; a tokenizer does not change it",
        "architecture/__init__.py, get_architecture_info: asks for --allow-crimes",
    )  # fmt: skip
    yield _shapes(model, target)
    yield same_ids(model, target, "assumed: rows are merged by id (merge_methods); otherwise tokenizer_source")


def _shapes(model: Candidate, target: Candidate) -> Rule:
    shared = model.shapes.keys() & target.shapes.keys()
    wrong = sorted(n for n in shared if model.shapes[n] != target.shapes[n])
    alone = sorted(model.shapes.keys() ^ target.shapes.keys())
    detail = f"{len(shared)} tensors"
    if wrong:
        here, there = model.shapes[wrong[0]], target.shapes[wrong[0]]
        detail += f"; {len(wrong)} differ, such as {wrong[0]}: {list(here)}, target {list(there)}"
    if alone:
        detail += f"; only one has {alone[0]}"
    remedy = "models of one size; tokensurgeon MODEL TARGET for the vocabulary's tensors"
    return Rule(
        "same tensors and shapes as the target", not wrong and not alone, detail, remedy,
        "merge_methods/base.py, TensorGroup: matching shapes",
    )  # fmt: skip
