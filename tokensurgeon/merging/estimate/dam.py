"""Train coefficients for language models on disk: of DAM, of FW-Merging, of Expert Merging."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.checkpoint.staging import check_target
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.texts import TextPieces, open_texts
from tokensurgeon.merging.estimate.dam_training import DamOptions, fit
from tokensurgeon.merging.estimate.expert_training import ExpertOptions, fit_expert
from tokensurgeon.merging.estimate.files import SUFFIX, write_file
from tokensurgeon.merging.estimate.fw_training import FrankWolfeOptions, fit_fw
from tokensurgeon.merging.estimate.loading import TokenRows, ids_of, load_trainable, stored_names, weights_digest
from tokensurgeon.merging.estimate.pieces import Tensors
from tokensurgeon.merging.estimate.training import TrainedCoefficients
from tokensurgeon.progress import Progress, Stage

__all__ = ["CoefficientOptions", "DamReport", "train_dam"]

_PIECE_BYTES = 1024
_METHODS = {DamOptions: "dam", ExpertOptions: "expert", FrankWolfeOptions: "fw"}

CoefficientOptions = DamOptions | ExpertOptions | FrankWolfeOptions
"""How coefficients are trained, and by that for which merge method."""


@dataclass(frozen=True, slots=True)
class DamReport:
    """How the training went.

    Attributes:
        out: The file with the coefficients.
        method: The ``merge_method`` that takes them.
        models: In the order in which the recipe must name them.
        steps: Updates made.
        before: Divergence, mean of the first tenth of the steps, in nats per token and summed over models.
        after: Of the last tenth.
    """

    out: Path
    method: str
    models: tuple[str, ...]
    steps: int
    before: float
    after: float


def train_dam(
    models: Sequence[str],
    text: Sequence[Path | str],
    out: Path | str,
    options: CoefficientOptions | None = None,
    *,
    base: str | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DamReport:
    """Write coefficients for ``merge_method: dam``, ``expert`` or ``fw``.

    Args:
        models: Directories, ``.gguf`` files or hub ids, with one tokenizer and one architecture; all are in memory.
        text: For each model one file, of the kind of text that it was tuned on.
        out: A ``.safetensors`` file: by tensor, (models, columns) float32, or (models,) for ``expert`` and ``fw``.
        options: `DamOptions`, `ExpertOptions` or `FrankWolfeOptions`.
        base: What the models were tuned from; `ExpertOptions` need it, and the others have no place for it.
        device: Where to run.
        overwrite: Replace a file that exists.
        progress: Called with (stage, steps done, steps in all).

    Raises:
        InputError: If models do not go together, or the texts are not one for each.

    Example:
        >>> import tokensurgeon
        >>> options, texts = tokensurgeon.DamOptions(steps=2), ["text.txt", "other.txt"]
        >>> report = tokensurgeon.train_dam(["base", "tuned"], texts, "dam.safetensors", options)
        >>> report.steps
        2
    """
    options = options or DamOptions()
    method, target = _METHODS[type(options)], Path(out).expanduser()
    named = [*([base] if base is not None else []), *models]
    check_target(target, overwrite, (*named, *map(str, text)), suffix=SUFFIX)
    if len(models) < 2:
        raise InputError(f"{method} merges two models or more; here is {len(models)}")
    if len(text) != len(models):
        raise InputError(f"{len(models)} models and {len(text)} texts; give --text once for each model, in their order")
    if (base is None) == (method == "expert"):
        what = "needs the model that the others were tuned from: give --base" if base is None else "has no --base"
        raise InputError(f"{method} {what}")
    contents = [TextPieces.of(open_texts([Path(name)]).values(), _PIECE_BYTES) for name in text]
    opened = [load_trainable(name, device) for name in named]
    directory, first = opened[0]
    for name, (_, other) in zip(named[1:], opened[1:], strict=True):
        _refuse_misfits(named[0], first, name, other)
    data = [TokenRows(first, pieces, progress) for pieces in contents]
    sources = [{n: p.detach() for n, p in of.model.named_parameters() if p.is_floating_point()} for _, of in opened]

    def tell(done: int, _divergence: float) -> None:
        if progress is not None:
            progress(Stage.DAM, done, options.steps)

    fitted = _fitted(first.model.requires_grad_(False), sources, data, options, tell)
    metadata = {
        "models": json.dumps(named),
        "weights": json.dumps([weights_digest(place) for place, _ in opened]),
        "ids": ids_of(directory),
    }
    write_file(target, stored_names(fitted.coefficients, directory, first), metadata, overwrite=overwrite)
    tenth = max(1, options.steps // 10)
    begin, end = fitted.losses[:tenth], fitted.losses[-tenth:]
    return DamReport(target, method, tuple(models), options.steps, sum(begin) / tenth, sum(end) / tenth)


def _fitted(
    shell: Any,
    sources: Sequence[Tensors],
    data: Sequence[Sequence[torch.Tensor]],
    options: CoefficientOptions,
    tell: Callable[[int, float], None],
) -> TrainedCoefficients:
    """Train with one model's code and everybody's weights; the first of the sources is the base, where there is one."""

    def run(weights: Tensors, ids: torch.Tensor, **wanted: bool) -> Any:
        return torch.func.functional_call(shell, dict(weights), (), {"input_ids": ids, **wanted})

    def logits(weights: Tensors, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = run(weights, ids).logits
        return found

    def thought(weights: Tensors, ids: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        found = run(weights, ids, output_hidden_states=True)
        return found.logits, found.hidden_states

    if isinstance(options, ExpertOptions):
        return fit_expert(sources[0], sources[1:], thought, data, options, tell)
    if isinstance(options, FrankWolfeOptions):
        return fit_fw(sources, logits, data, options, tell)
    return fit(sources, logits, data, options, tell)


def _refuse_misfits(first: str, one: LoadedModel, name: str, other: LoadedModel) -> None:
    shapes: list[dict[str, Any]] = [{n: tuple(p.shape) for n, p in of.model.named_parameters()} for of in (one, other)]
    odd = sorted(n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n))
    if one.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise InputError(
            f"{first} and {name} have different tokenizers; transplant one first: tokensurgeon {name} {first}"
        )
    if odd:
        a, b = (of.get(odd[0], "absent") for of in shapes)
        raise InputError(f"{first} and {name} do not go together: {odd[0]} is {a} in one and {b} in the other")
