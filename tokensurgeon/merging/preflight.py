"""Find in mergekit's plan, before any work, what would fail only when all models have been transplanted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.checkpoint.cache import is_kept
from tokensurgeon.errors import InputError
from tokensurgeon.merging.align import Owner, has_ids_of, place_of
from tokensurgeon.merging.models import Model, content_digest
from tokensurgeon.surgery.options import TransplantOptions

__all__ = ["READS", "refuse_files", "refuse_unplanned", "refuse_values"]

_LAYER = re.compile(r"\.\d+\.")
READS = {"dam": "coefficients", "expert": "coefficients", "fisher": "fisher", "fw": "coefficients"}
"""Our methods that read files, and the parameter that names one."""


def refuse_values(tasks: Sequence[Any]) -> None:
    """Let our own methods try every planned set of parameters on two numbers.

    Raises:
        InputError: What the method says, for example that a density is above 1.
    """
    from tokensurgeon.merging.methods.fisher import fisher_average

    for task in tasks:
        tiny = {model: torch.ones(2, 2) for model in task.model_order}
        if task.method_name == "fisher":
            weights = [task.input_parameters[model]["weight"] for model in tiny]
            fisher_average(list(tiny.values()), list(tiny.values()), weights, task.parameters["floor"])
        elif task.method_name in ("consensus", "metrics_weighted", "opcm", "optmerge", "pcb", "tsvm", "widen"):
            task.execute(tiny)


def refuse_unplanned(tasks: Sequence[Any], models: Sequence[Model]) -> None:
    """Models with tensors that mergekit would leave out.

    Raises:
        InputError: Naming the model, and the tensor.
    """
    planned = {_LAYER.sub(".N.", task.output_weight.name) for task in tasks}
    for model in models:
        for name in sorted(model.body):
            if _LAYER.sub(".N.", name) not in planned:
                raise InputError(f"{model.name} has a tensor {name}, which mergekit does not know and would leave out")


def refuse_files(tasks: Sequence[Any], models: Sequence[Model], owner: Owner, options: TransplantOptions) -> None:
    """Files of Fisher information or coefficients that are missing, or were made from other models than are merged.

    Args:
        tasks: mergekit's plan.
        models: All models, as they were given.
        owner: Whose ids the merge has.
        options: How the others are transplanted.

    Raises:
        InputError: Naming the file, the model, and how to make it.
    """
    from tokensurgeon.merging.estimate.files import read_metadata

    by_place = {str(model.directory): model for model in models}
    found: dict[tuple[str, tuple[str, ...]], None] = {}
    for task in tasks:
        name = READS.get(task.method_name)
        based = [task.base_model] if task.method_name == "expert" else []  # whose file names the base first
        listed = [*based, *(model for model in task.model_order if model not in based)]
        order = tuple(model.model.path for model in listed)
        if name == "coefficients":
            found[task.parameters[name], order] = None
        elif name is not None:
            found |= {(task.input_parameters[model][name], (model.model.path,)): None for model in task.model_order}
    for path, places in found:
        metadata, concerned = read_metadata(path), [by_place[place] for place in places]
        _refuse_other_ids(path, metadata, concerned, owner, options)
        if "weights" in metadata:
            _refuse_other_models(path, metadata, concerned, owner, options)


def _refuse_other_ids(
    path: str, metadata: Mapping[str, str], models: Sequence[Model], owner: Owner, options: TransplantOptions
) -> None:
    from tokensurgeon.merging.estimate.loading import ids_digest

    moved = [model for model in models if not has_ids_of(model, owner)]
    if metadata.get("ids") == ids_digest(owner.model.tokenizer, owner.rows) or ("ids" not in metadata and not moved):
        return
    if not moved:
        raise InputError(
            f"{path} was made in other ids than those of {owner.model.name}. Make it from {models[0].name}"
        )
    place = place_of(moved[0], owner, options, content_digest(moved[0].directory))
    there = f"and name that in the recipe: tokensurgeon {moved[0].name} {owner.reference} --out DIR"
    there = f"which lies in {place}" if is_kept(place) else there
    raise InputError(
        f"{path} was made in other ids than those of {owner.model.name}, which {moved[0].name} gets. Make it from the "
        f"transplanted model, {there}"
    )


def _refuse_other_models(
    path: str, metadata: Mapping[str, str], models: Sequence[Model], owner: Owner, options: TransplantOptions
) -> None:
    from tokensurgeon.merging.estimate.loading import weights_digest

    names, digests = json.loads(metadata.get("models", "[]")), json.loads(metadata["weights"])
    wrong = len(digests) != len(models)
    for model, digest in zip(models, digests, strict=False):
        places: list[Path] = [model.directory]
        if not has_ids_of(model, owner):
            places = [place_of(model, owner, options, content_digest(model.directory))]
        wrong |= not any(is_kept(place) and weights_digest(place) == digest for place in places)
    if wrong:
        raise InputError(
            f"{path} was trained for {', '.join(names)}, in this order; the recipe merges "
            f"{', '.join(model.name for model in models)}. Train it for these"
        )
