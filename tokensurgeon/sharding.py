"""Several processes, one solution: under ``torchrun`` every rank solves its share of the targets.

A target's result does not depend on the targets beside it (`tokensurgeon.omp`), so the shares put
together are what one process would find, bit for bit on the same type of device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from tokensurgeon.budget import free_memory
from tokensurgeon.omp import SparseCoefficients, check_problem, solve_omp

__all__ = ["joined", "own_device", "rank", "solve_in_shares"]

Progress = Callable[[int, int], None]
_PATIENCE = timedelta(days=1)
"""Ranks may be of very different speed; one that dies is noticed by torchrun."""


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 is the one that writes, and the only one without ``torchrun``."""
    return dist.get_rank() if _world() > 1 else 0


@contextmanager
def joined() -> Iterator[None]:
    """Meet the other processes that ``torchrun`` started, if it did and nobody has done so yet."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)  # results are gathered on the CPU, from any device
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """This rank's GPU, where ``device`` is CUDA without a number."""
    if device.type == "cuda" and device.index is None and _world() > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return device


def solve_in_shares(
    targets: torch.Tensor,
    atoms: torch.Tensor,
    k: int,
    *,
    exact: bool = False,
    memory: int | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> SparseCoefficients:
    """As `solve_omp`, with the targets divided among the ranks; every rank gets the whole result."""
    world = _world()
    if world == 1:
        return solve_omp(targets, atoms, k, exact=exact, memory=memory, device=device, progress=progress)
    check_problem(targets, atoms, k)
    n, share = len(targets), -(-len(targets) // world)
    own = slice(min(n, rank() * share), min(n, (rank() + 1) * share))

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(n * done // max(total, 1), n)

    if memory is None and torch.device(device).type == "cpu":  # ranks on one machine share what it has
        memory = free_memory(torch.device("cpu")) // 2 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    solved = solve_omp(targets[own], atoms, k, exact=exact, memory=memory, device=device, progress=tell)
    return SparseCoefficients(
        _gathered(solved.indices, share)[:n],
        _gathered(solved.values, share)[:n],
        _gathered(solved.n_active, share)[:n],
        _gathered(solved.residual, share)[:n],
    )


def _gathered(own: torch.Tensor, share: int) -> torch.Tensor:
    """The shares of all ranks, end to end; the last ones are padded."""
    place = "cuda" if dist.get_backend() == "nccl" else "cpu"
    padded = own.new_zeros(share, *own.shape[1:])
    padded[: len(own)] = own
    padded = padded.to(place)
    parts = [torch.empty_like(padded) for _ in range(_world())]
    dist.all_gather(parts, padded)
    return torch.cat(parts).cpu()
