"""Average the factors of several LoRA adapters, by a figure for each."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tokensurgeon.checkpoint.staging import check_target
from tokensurgeon.errors import InputError
from tokensurgeon.merging.adapters.opened import (
    OpenAdapter,
    modules_of,
    open_adapters,
    refuse_other_meaning,
    write_adapter,
)
from tokensurgeon.merging.methods.metrics import metric_weights, metrics_average
from tokensurgeon.report.markdown import code

__all__ = ["AverageReport", "average_adapters"]

log = logging.getLogger(__name__)

_A, _B = ".lora_A.weight", ".lora_B.weight"
_FAR = 0.5
"""Adapters of one run are nearer than this, by `AverageReport.gap`; of different runs they are not."""


@dataclass(frozen=True, slots=True)
class AverageReport:
    """What was averaged.

    Attributes:
        out: The written adapter.
        weights: By adapter; they sum to 1.
        modules: How many modules it changes.
        gap: What the averaged factors do, beside the average of what the adapters do: norm of the difference over
            that of the average, over all modules. 0 where all have the same A, or the same B.
    """

    out: Path
    weights: dict[str, float]
    modules: int
    gap: float


def average_adapters(
    adapters: Sequence[str],
    out: Path | str,
    *,
    metrics: Sequence[float] | None = None,
    penalty: float = 1.0,
    lower_is_better: bool = True,
    overwrite: bool = False,
) -> AverageReport:
    """Write the adapter whose factors are the weighted means of the others' (arXiv 2504.18580).

    This is for adapters of one training run, or of runs from one adapter: where they began apart, the product of the
    means is not the mean of the products. `AverageReport.gap` says by how much.

    Args:
        adapters: Directories or hub ids, two or more, of one base and one rank.
        out: Output directory.
        metrics: A figure for each, such as its loss; the plain mean by default.
        penalty: How much worse ones are held down; see `tokensurgeon.merging.methods.metrics.metric_weights`.
        lower_is_better: Whether a figure is a loss.
        overwrite: Replace an adapter that exists.

    Raises:
        InputError: If adapters do not go together, or there is not one metric for each.

    Example:
        >>> import tokensurgeon
        >>> report = tokensurgeon.average_adapters(["adapter", "adapter2"], "out", metrics=[2.0, 2.1])
        >>> round(sum(report.weights.values()), 6)
        1.0
    """
    target = Path(out).expanduser().absolute()
    check_target(target, overwrite, adapters)
    figures = [1.0] * len(adapters) if metrics is None else list(metrics)
    if len(figures) != len(adapters):
        raise InputError(f"{len(adapters)} adapters and {len(figures)} metrics; give --metric once for each")
    weights = metric_weights(figures, penalty, lower_is_better=lower_is_better)
    opened = open_adapters(adapters)
    refuse_other_meaning(opened)
    tensors = {
        name: metrics_average([of.tensors[name] for of in opened], figures, penalty, lower_is_better=lower_is_better)
        for name in opened[0].tensors
    }
    gap = _gap(opened, weights)
    if gap > _FAR:
        log.warning(
            "what the averaged factors do differs by %.0f%% from the average of what the adapters do: they do not come "
            "from one run. Merge each into the base, and the models by tokensurgeon merge",
            100 * gap,
        )
    shares = dict(zip((of.name for of in opened), weights, strict=True))
    told = ", ".join(f"{code(name)} ({share:.3f})" for name, share in shares.items())
    write_adapter(target, overwrite, opened[0].config, tensors, f"The factors of {told}, averaged.")
    return AverageReport(target, shares, modules_of(opened[0]), gap)


def _gap(adapters: Sequence[OpenAdapter], weights: Sequence[float]) -> float:
    """Norms by way of the factors' Gram matrices: no product is ever made."""
    apart = whole = 0.0
    for name in adapters[0].tensors:
        partner = name.removesuffix(_A) + _B
        if not name.endswith(_A) or adapters[0].tensors[name].ndim != 2 or partner not in adapters[0].tensors:
            continue
        a = [of.tensors[name].double() for of in adapters]
        b = [weight * of.tensors[partner].double() for of, weight in zip(adapters, weights, strict=True)]
        mean = torch.stack([weight * one for one, weight in zip(a, weights, strict=True)]).sum(dim=0)
        left, right = torch.cat(b, dim=1), torch.cat([mean - one for one in a])
        apart += _square(left, right)
        whole += _square(left, torch.cat(a))
    return math.sqrt(apart / whole) if whole > 0 else 0.0


def _square(left: torch.Tensor, right: torch.Tensor) -> float:
    return max(0.0, float(((left.T @ left) * (right @ right.T)).sum()))
