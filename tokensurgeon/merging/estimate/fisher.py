"""Estimate the diagonal of a language model's Fisher information on some text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tokensurgeon.checkpoint.staging import check_target
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.texts import TextPieces, open_texts
from tokensurgeon.merging.estimate.files import SUFFIX, write_file
from tokensurgeon.merging.estimate.loading import ids_of, load_trainable, stored_names, token_rows
from tokensurgeon.progress import Progress, Stage

__all__ = ["FisherReport", "estimate_fisher", "fisher_diagonal"]

_PIECE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class FisherReport:
    """What was estimated.

    Attributes:
        out: The file.
        pieces: Pieces of text that were read.
        tokens: Predictions in them.
        parameters: Numbers in the file.
        mean: Their mean: how much the log-likelihood of a token changes with a parameter, squared.
    """

    out: Path
    pieces: int
    tokens: int
    parameters: int
    mean: float


def fisher_diagonal(
    model: torch.nn.Module, rows: Iterable[torch.Tensor], generator: torch.Generator
) -> tuple[dict[str, torch.Tensor], int]:
    """Mean over predictions of the squared gradient of a label's log-probability, labels drawn from the model itself.

    Labels are the model's own (Matena and Raffel 2022, arXiv 2111.09832), not the text's: only that is the
    Fisher information. Gradients of labels drawn at different positions have no correlation, so that the square of
    their sum over a row estimates the sum of their squares without bias; one backward pass serves a whole row.

    Args:
        model: Takes ``input_ids`` (1, length) and gives ``logits`` (1, length, vocabulary), as transformers' do.
        rows: (1, length) int64 token ids each; the last position predicts nothing.
        generator: Draws the labels; on the CPU.

    Returns:
        Name of each floating parameter to a float32 tensor of its shape, and the number of predictions.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    count = 0
    for row in rows:
        logits = model(input_ids=row).logits[0, :-1].float()
        chances = torch.softmax(logits.detach(), dim=-1).cpu()
        labels = torch.multinomial(chances, 1, generator=generator).to(logits.device)
        total = torch.log_softmax(logits, dim=-1).gather(1, labels).sum()
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient.float().square()
        count += len(labels)
    return {name: value / max(1, count) for name, value in sums.items()}, count


def estimate_fisher(
    model: str,
    text: Sequence[Path | str],
    out: Path | str,
    *,
    pieces: int = 64,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FisherReport:
    """Write a model's Fisher diagonal on some text, for ``merge_method: fisher``.

    Args:
        model: Directory, ``.gguf`` file, or hub id.
        text: Files of the kind of text that the model was tuned on.
        out: A ``.safetensors`` file: float32 tensors with the names of the checkpoint's.
        pieces: Pieces of 1 kB to read, from all over the text.
        seed: For the labels.
        device: Where to run.
        overwrite: Replace a file that exists.
        progress: Called with (stage, done, total).

    Raises:
        InputError: If the model or the text cannot be used.

    Example:
        >>> import tokensurgeon
        >>> report = tokensurgeon.estimate_fisher("base", ["text.txt"], "fisher.safetensors", pieces=4)
        >>> report.pieces
        4
    """
    target = Path(out).expanduser()
    check_target(target, overwrite, (model, *map(str, text)), suffix=SUFFIX)
    if not text or pieces < 1:
        raise InputError("fisher needs a text, and at least one piece of it. Give --text FILE")
    parts = TextPieces.of(open_texts([Path(name) for name in text]).values(), _PIECE_BYTES)
    wanted = min(pieces, len(parts))
    chosen = [parts[i * len(parts) // wanted] for i in range(wanted)]
    directory, loaded = load_trainable(model, device)

    def rows() -> Iterable[torch.Tensor]:
        read = token_rows(loaded, chosen)
        for done, row in enumerate(read):
            if progress is not None:
                progress(Stage.FISHER, done, len(read))
            yield row

    found, count = fisher_diagonal(loaded.model, rows(), torch.Generator().manual_seed(seed))
    if not all(bool(torch.isfinite(value).all()) for value in found.values()):
        raise InputError(
            f"{model} gives gradients that are not finite; its weights are damaged, or its dtype too narrow"
        )
    metadata = {"model": model, "tokens": str(count), "ids": ids_of(directory)}
    write_file(target, stored_names(found, directory, loaded), metadata, overwrite=overwrite)
    numbers = sum(value.numel() for value in found.values())
    mean = sum(float(value.sum(dtype=torch.float64)) for value in found.values()) / max(1, numbers)
    return FisherReport(target, len(chosen), count, numbers, mean)
