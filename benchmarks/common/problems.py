"""What the solver is measured on: a pair's real embeddings, or synthetic matrices of a given shape."""

from __future__ import annotations

from typing import Any

import torch

from tokensurgeon.alignment import Provenance
from tokensurgeon.checkpoint import Checkpoint, find_vocabulary_tensors
from tokensurgeon.surgery.pair import align_models

__all__ = ["load_problem"]


def load_problem(problem: dict[str, Any], n_targets: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(targets, atoms) float32: what a transplant of ``donor`` onto ``base`` has to solve, or random rows.

    Targets are a random sample; with 0 they are all. Synthetic rows have a common direction and unequal
    norms, as embeddings do; ``copies`` makes that many equal atoms of each.
    """
    generator = torch.Generator().manual_seed(seed)
    if "donor" not in problem:
        n, m, dim = n_targets or problem["targets"], problem["atoms"], problem["dim"]
        rows = torch.randn(n + m, dim, generator=generator).add_(torch.randn(dim, generator=generator))
        rows *= torch.rand(n + m, 1, generator=generator).add_(0.5)
        targets, atoms = rows[:n], rows[n:]
        return targets, atoms[: m // problem.get("copies", 1)].repeat(problem.get("copies", 1), 1)
    from benchmarks.common import models

    base, donor = (str(getattr(models, problem[side])()) for side in ("base", "donor"))
    _, right, aligned, _ = align_models(base, donor)
    plan = aligned.plan
    files = Checkpoint.open(right.directory)
    embedding = files.read(find_vocabulary_tensors(right.directory, files.tensors).embedding).float()
    targets = torch.from_numpy(plan.ids(Provenance.RECONSTRUCTED))
    if n_targets:
        targets = targets[torch.randperm(len(targets), generator=generator)[:n_targets]]
    return embedding[targets], embedding[torch.from_numpy(plan.anchors[plan.anchors < len(embedding)])]
