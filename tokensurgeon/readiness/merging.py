"""Check whether models will merge: their shapes and ids, and how what they learnt lies to each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.errors import InputError
from tokensurgeon.readiness.model import Rule, open_candidate
from tokensurgeon.readiness.task_vectors import Angles, angles, lock_ratio

__all__ = ["check_merge", "relation_rules"]

_ONE_BASE = 0.5
"""Least cosine of weights: fine-tunes have 0.9 or more with their base, models trained apart some hundredths."""
_LONGER = 10.0
_ALIKE, _AGAINST = 0.95, -0.3
_LOCKED = 2.0
"""Between 0.55, which a fine-tune has, and 4 to 7, which locked toys have."""
_MEASURED = "measured on the weights"


def check_merge(models: Sequence[str], base: str | None = None) -> list[Rule]:
    """Try whether models will merge, before they do.

    Args:
        models: At least two: directories or hub ids.
        base: The model that they were trained from; without it, it is taken that the first is like the others.

    Returns:
        All rules, failed ones included; those that do not have to hold are warnings.

    Raises:
        InputError: If there are fewer than two, or one is no model.

    Example:
        >>> import tokensurgeon
        >>> rules = tokensurgeon.check_merge(["base", "tuned"])
        >>> [rule.name for rule in rules if rule.must and not rule.ok]
        []
    """
    if len(models) < 2 and base is None:
        raise InputError("--for merge takes two models at least: tokensurgeon check A B --for merge")
    opened = [open_candidate(name, "all") for name in (*([] if base is None else [base]), *models)]
    shapes = list(_shape_rules(opened))
    return shapes + (list(relation_rules(opened, base is not None)) if all(rule.ok for rule in shapes[:-1]) else [])


def _shape_rules(models: Sequence[OpenModel]) -> Iterator[Rule]:
    """What has to hold, and last that ids are the same, which a transplant mends."""
    first, others = models[0], models[1:]
    kinds = {model.name: ", ".join(model.config.get("architectures") or ["none"]) for model in models}
    one = len(set(kinds.values())) == 1
    yield Rule(
        "one architecture", one, kinds[first.name] if one else "; ".join(f"{n}: {k}" for n, k in kinds.items()),
        "merge models of one architecture; a tokenizer does not change it", "tokensurgeon merge refuses others",
    )  # fmt: skip
    odd = next((text for model in others if (text := _unlike(first, model))), "")
    yield Rule(
        "one shape", not odd, odd or f"{len(_body(first))} tensors", "merge models of one size; --untie mends a head",
        "tokensurgeon merge refuses others",
    )  # fmt: skip
    moved = [model for model in others if model.ids != first.ids or model.layout.rows != first.layout.rows]
    yield Rule(
        "the same ids", not moved, f"{', '.join(m.name for m in moved) or 'none'} has others than {first.name}",
        "nothing for tokensurgeon merge, which transplants first; for mergekit alone, tokensurgeon MODEL "
        f"{first.name}", "rows are merged by id", must=False,
    )  # fmt: skip


def relation_rules(models: Sequence[OpenModel], based: bool) -> Iterator[Rule]:
    """How what models of one shape learnt lies to each other; vocabulary-sized tensors are left out. All are warnings.

    Args:
        models: At least two.
        based: Whether the first is the base, which the others were trained from.
    """
    first, others = models[0], models[1:]
    names = [name for name, shape in _body(first).items() if len(shape) > 1]
    found = angles([model.checkpoint for model in models], names)
    ratios = {model.name: _lock_ratio(model, first) for model in others}
    locked = [name for name, ratio in ratios.items() if ratio is not None and ratio >= _LOCKED]
    near = {model.name: found.weights[0, number] for number, model in enumerate(others, 1)}
    far = [name for name, cosine in near.items() if cosine < _ONE_BASE and name not in locked]
    yield Rule(
        "one base", not far,
        f"cosine of weights with {first.name}: " + ", ".join(f"{name} {cosine:.2f}" for name, cosine in near.items()),
        f"{', '.join(far)} and {first.name} were not trained from one model: what a mean of their weights does, no one "
        "can say", _MEASURED, must=False,
    )  # fmt: skip
    if any(ratio is not None for ratio in ratios.values()):
        shown = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items() if ratio is not None)
        which = ", ".join(locked) if based else f"{', '.join(locked)} or {first.name}"
        yield Rule(
            "none is locked", not locked,
            f"change of values and outputs of attention over that of their product: {shown}",
            f"{which} was locked against merging (MergeLock): it works by itself and spoils a merge. Ask its maker",
            _MEASURED, must=False,
        )  # fmt: skip
    if based and not locked and not far:
        yield from _change_rules(others, found)


def _lock_ratio(model: OpenModel, first: OpenModel) -> float | None:
    return lock_ratio(model.checkpoint, first.checkpoint, model.config.get("text_config") or model.config)


def _change_rules(others: Sequence[OpenModel], found: Angles) -> Iterator[Rule]:
    names, length = [model.name for model in others], found.length[1:]
    shown = ", ".join(f"{name} {of:.3g}" for name, of in zip(names, length, strict=True))
    still = [name for name, of in zip(names, length, strict=True) if of == 0]
    yield Rule(
        "every model differs from the base", not still, f"change over the base's length: {shown}",
        f"leave out {', '.join(still)}: it adds nothing", _MEASURED, must=False,
    )  # fmt: skip
    moving = [(of, name) for name, of in zip(names, length, strict=True) if of > 0]
    if len(moving) < 2:
        return
    (least, small), (most, large) = min(moving), max(moving)
    yield Rule(
        "changes of like length", most < _LONGER * least, f"longest over shortest: {most / least:.1f}",
        f"{large} drowns out {small}: give it a smaller weight, or search for weights (merge --search)", _MEASURED,
        must=False,
    )  # fmt: skip
    pairs = [(found.changes[i + 1, j + 1], f"{names[i]} and {names[j]}") for j in range(len(names)) for i in range(j)]
    wrong = [f"{pair} {cosine:.2f}" for cosine, pair in pairs if not _AGAINST < cosine < _ALIKE]
    yield Rule(
        "changes neither alike nor against each other", not wrong,
        "cosines: " + ", ".join(f"{pair} {cosine:.2f}" for cosine, pair in pairs),
        f"{'; '.join(wrong)}: alike, they count twice; against each other, they undo each other. Leave one out, or "
        "take ties, which resolves signs", _MEASURED, must=False,
    )  # fmt: skip


def _body(model: OpenModel) -> dict[str, tuple[int, ...]]:
    layout = model.layout
    own = {layout.embedding, layout.head, layout.bias, *layout.stale, *layout.unclaimed}
    floating = {n: info for n, info in model.checkpoint.tensors.items() if info.dtype in ("F16", "BF16", "F32", "F64")}
    return {n: info.shape for n, info in floating.items() if n not in own and not n.endswith("rotary_emb.inv_freq")}


def _unlike(first: OpenModel, other: OpenModel) -> str:
    """What is not of one shape; empty if all is."""
    ours, theirs = _body(first), _body(other)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs:
            has, lacks = (first, other) if name in ours else (other, first)
            return f"{has.name} has {name}, {lacks.name} has none"
        if ours[name] != theirs[name]:
            return f"{name} is {list(ours[name])} in {first.name} and {list(theirs[name])} in {other.name}"
    if first.layout.dim != other.layout.dim:
        return f"{first.name} is {first.layout.dim} wide, {other.name} {other.layout.dim}"
    if first.layout.tied != other.layout.tied:
        return f"only one of {first.name} and {other.name} has its LM head tied"
    return ""
