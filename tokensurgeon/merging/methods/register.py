"""Enter the methods in mergekit's registry. Imported only where mergekit is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tokensurgeon.errors import MissingDependencyError
from tokensurgeon.merging.estimate.files import read_tensor
from tokensurgeon.merging.methods.consensus import consensus_merge
from tokensurgeon.merging.methods.dam import dam_merge
from tokensurgeon.merging.methods.expert import expert_merge
from tokensurgeon.merging.methods.fisher import fisher_average
from tokensurgeon.merging.methods.fw import fw_merge
from tokensurgeon.merging.methods.metrics import metrics_average
from tokensurgeon.merging.methods.opcm import opcm_merge
from tokensurgeon.merging.methods.optmerge import optmerge_merge
from tokensurgeon.merging.methods.pcb import pcb_merge
from tokensurgeon.merging.methods.tsvm import tsvm_merge
from tokensurgeon.merging.methods.widen import widen_merge

try:
    from mergekit.merge_methods.base import (
        MISSING,
        BasePolicy,
        FunctionalGroupMergeMethod,
        InputContract,
        MergeMethodSpec,
        ParameterScope,
        ParameterSpec,
    )
    from mergekit.merge_methods.registry import register as add
    from mergekit.merge_methods.registry import registered_methods
except ImportError as error:
    raise MissingDependencyError("mergekit 0.1.5 or newer", "merge", "merging") from error

__all__ = ["register"]


def _fisher(group: Any, fisher: Any, weight: Any, floor: float) -> torch.Tensor:
    files = [read_tensor(path, group.metadata.name) for path in fisher.values_for(group.entries)]
    files = [file.to(group.tensors[0].device) for file in files]
    return fisher_average(group.tensors, files, weight.values_for(group.entries), floor)


def _metrics(group: Any, metric: Any, penalty: float, lower_is_better: bool) -> torch.Tensor:
    metrics = metric.values_for(group.entries)
    return metrics_average(group.tensors, metrics, penalty, lower_is_better=lower_is_better)


def _pcb(group: Any, **parameters: float) -> torch.Tensor:
    base, tuned = _parts(group)
    return pcb_merge(base, tuned, parameters["density"], parameters["lambda"])


def _consensus(group: Any, k: int, **parameters: float) -> torch.Tensor:
    base, tuned = _parts(group)
    return consensus_merge(base, tuned, k, parameters["threshold"], parameters["lambda"])


def _widen(group: Any, above_average: float, score: float) -> torch.Tensor:
    base, tuned = _parts(group)
    tokens = group.metadata.vocabulary_axis == 0
    return widen_merge(base, tuned, above_average, score, rows_are_tokens=tokens)


def _opcm(group: Any, alpha: float) -> torch.Tensor:
    base, tuned = _parts(group)
    return opcm_merge(base, tuned, alpha)


def _tsvm(group: Any, rank: float | None, reweight: bool, adaptive: bool, **parameters: float) -> torch.Tensor:
    base, tuned = _parts(group)
    return tsvm_merge(base, tuned, rank, parameters["lambda"], reweight=reweight, adaptive=adaptive)


def _optmerge(group: Any, rank: float | None, **parameters: float) -> torch.Tensor:
    base, tuned = _parts(group)
    tokens = group.metadata.vocabulary_axis == 0
    return optmerge_merge(base, tuned, rank, parameters["lambda"], parameters["ridge"], rows_are_tokens=tokens)


def _dam(group: Any, coefficients: str) -> torch.Tensor:
    trained = read_tensor(coefficients, group.metadata.name)
    return dam_merge(group.tensors, trained.to(group.tensors[0].device))


def _expert(group: Any, coefficients: str) -> torch.Tensor:
    base, tuned = _parts(group)
    trained = read_tensor(coefficients, group.metadata.name)
    return expert_merge(base, tuned, trained.to(base.device))


def _fw(group: Any, coefficients: str) -> torch.Tensor:
    trained = read_tensor(coefficients, group.metadata.name)
    return fw_merge(group.tensors, trained.to(group.tensors[0].device))


def _parts(group: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    return group.base.tensor, [entry.tensor for entry in group.non_base]


def _shared(name: str, kind: Any, default: Any = MISSING) -> Any:
    return ParameterSpec(name=name, value_type=kind, scope=ParameterScope.SHARED, default=default)


def _of_each(name: str, kind: type, default: Any = MISSING) -> Any:
    return ParameterSpec(name=name, value_type=kind, scope=ParameterScope.INPUT, default=default)


def _method(
    name: str, title: str, paper: str, run: Callable[..., torch.Tensor], *parameters: Any, base: bool = False
) -> Any:
    contract = InputContract(base=BasePolicy.REQUIRED, min_non_base=1) if base else InputContract()
    spec = MergeMethodSpec(
        name=name,
        parameters=parameters,
        contract=contract,
        pretty_name=title,
        reference_url=f"https://arxiv.org/abs/{paper}",
    )
    return FunctionalGroupMergeMethod(spec, run)


def register() -> None:
    """Add the methods to mergekit's registry; those that are there already stay."""
    known = {method.spec.name for method in registered_methods()}
    for method in (
        _method(
            "fisher", "Fisher-weighted averaging", "2111.09832", _fisher,
            _of_each("fisher", str), _of_each("weight", float, 1.0), _shared("floor", float, 1e-6),
        ),
        _method(
            "metrics_weighted", "Metrics-weighted averaging", "2504.18580", _metrics,
            _of_each("metric", float), _shared("penalty", float, 1.0), _shared("lower_is_better", bool, True),
        ),
        _method(
            "pcb", "PCB-Merging", "2410.02396", _pcb,
            _shared("density", float, 0.2), _shared("lambda", float, 1.0), base=True,
        ),
        _method(
            "widen", "WIDEN", "2408.03092", _widen,
            _shared("above_average", float, 1.0), _shared("score", float, 1.0), base=True,
        ),
        _method(
            "consensus", "Consensus merging (TALL-masks)", "2405.07813", _consensus,
            _shared("k", int, 2), _shared("threshold", float, 0.4), _shared("lambda", float, 1.0), base=True,
        ),
        _method("opcm", "OPCM", "2501.09522", _opcm, _shared("alpha", float, 0.5), base=True),
        _method(
            "tsvm", "TSV-Merge (task singular vectors)", "2412.00081", _tsvm,
            _shared("rank", float | None, None), _shared("lambda", float, 1.0), _shared("reweight", bool, False),
            _shared("adaptive", bool, False), base=True,
        ),
        _method(
            "optmerge", "OptMerge", "2505.19892", _optmerge,
            _shared("rank", float | None, None), _shared("lambda", float, 1.0), _shared("ridge", float, 1e-3),
            base=True,
        ),
        _method("dam", "Differentiable Adaptive Merging", "2410.08371", _dam, _shared("coefficients", str)),
        _method("expert", "Expert Merging", "2509.25712", _expert, _shared("coefficients", str), base=True),
        _method("fw", "FW-Merging (Frank-Wolfe)", "2503.12649", _fw, _shared("coefficients", str)),
    ):  # fmt: skip
        if method.spec.name not in known:
            add(method)
