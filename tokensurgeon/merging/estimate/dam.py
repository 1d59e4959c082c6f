"""Train DAM's coefficients for language models on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.checkpoint.staging import check_target
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.texts import TextPieces, open_texts
from tokensurgeon.merging.estimate.dam_training import DamOptions, Tensors, fit
from tokensurgeon.merging.estimate.files import SUFFIX, write_file
from tokensurgeon.merging.estimate.loading import TokenRows, ids_of, load_trainable, stored_names, weights_digest
from tokensurgeon.progress import Progress, Stage

__all__ = ["DamReport", "train_dam"]

_PIECE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class DamReport:
    """How the training went.

    Attributes:
        out: The file with the coefficients.
        models: In the order in which the recipe must name them.
        steps: Updates made.
        before: Divergence, mean of the first tenth of the steps, in nats per token and summed over models.
        after: Of the last tenth.
    """

    out: Path
    models: tuple[str, ...]
    steps: int
    before: float
    after: float


def train_dam(
    models: Sequence[str],
    text: Sequence[Path | str],
    out: Path | str,
    options: DamOptions | None = None,
    *,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DamReport:
    """Write coefficients for ``merge_method: dam``.

    Args:
        models: Directories, ``.gguf`` files or hub ids, with one tokenizer and one architecture; all are in memory.
        text: For each model one file, of the kind of text that it was tuned on.
        out: A ``.safetensors`` file: by tensor, (models, columns) float32.
        options: See `DamOptions`.
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
    target = Path(out).expanduser()
    check_target(target, overwrite, (*models, *map(str, text)), suffix=SUFFIX)
    if len(models) < 2:
        raise InputError(f"dam merges two models or more; here is {len(models)}")
    if len(text) != len(models):
        raise InputError(f"{len(models)} models and {len(text)} texts; give --text once for each model, in their order")
    contents = [TextPieces.of(open_texts([Path(name)]).values(), _PIECE_BYTES) for name in text]
    opened = [load_trainable(name, device) for name in models]
    directory, loaded = opened[0][0], [of for _, of in opened]
    for name, other in zip(models[1:], loaded[1:], strict=True):
        _refuse_misfits(models[0], loaded[0], name, other)
    data = [TokenRows(loaded[0], pieces, progress) for pieces in contents]
    shell = loaded[0].model.requires_grad_(False)
    sources = [{n: p.detach() for n, p in of.model.named_parameters() if p.is_floating_point()} for of in loaded]

    def forward(weights: Tensors, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = torch.func.functional_call(shell, dict(weights), (), {"input_ids": ids}).logits
        return logits

    def tell(done: int, _divergence: float) -> None:
        if progress is not None:
            progress(Stage.DAM, done, options.steps)

    fitted = fit(sources, forward, data, options, tell)
    metadata = {
        "models": json.dumps(list(models)),
        "weights": json.dumps([weights_digest(place) for place, _ in opened]),
        "ids": ids_of(directory),
    }
    write_file(target, stored_names(fitted.coefficients, directory, loaded[0]), metadata, overwrite=overwrite)
    tenth = max(1, options.steps // 10)
    first, last = fitted.losses[:tenth], fitted.losses[-tenth:]
    return DamReport(target, tuple(models), options.steps, sum(first) / tenth, sum(last) / tenth)


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
