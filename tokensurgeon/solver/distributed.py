"""Solve in several processes: under ``torchrun`` every rank solves its share of the targets.

On a CPU a target's result does not depend on the targets beside it (`tokensurgeon.solver.omp`), so the shares put
together are what one process would find, bit for bit. On GPUs a library may choose another kernel for a
share than for the whole, and the last bits may differ.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from tokensurgeon.solver.memory import free_memory
from tokensurgeon.solver.omp import SparseCoefficients, solve_omp
from tokensurgeon.solver.problem import check_problem

__all__ = ["joined", "own_device", "rank", "solve_in_shares", "world"]

_PATIENCE = timedelta(days=1)
"""Ranks may be of very different speed; one that dies is noticed by torchrun."""


def world() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 is the one that writes, and the only one without ``torchrun``."""
    return dist.get_rank() if world() > 1 else 0


@contextmanager
def joined() -> Iterator[None]:
    """Meet the other processes that ``torchrun`` started, if it did and nobody has done so yet."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    threads = torch.get_num_threads()
    if os.environ.get("OMP_NUM_THREADS") == "1":  # what torchrun sets, whatever there is to share
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // _local_world()))
    dist.init_process_group("gloo", timeout=_PATIENCE)  # results are gathered on the CPU, from any device
    try:
        yield
        # Leave together: gloo's threads drop the last gather's tensors, and must not find a Python that has gone.
        with suppress(RuntimeError):  # another rank failed, and says why itself
            dist.barrier()
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)


def _local_world() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def own_device(device: torch.device) -> torch.device:
    """This rank's GPU, where ``device`` is CUDA without a number."""
    if device.type == "cuda" and device.index is None and world() > 1:
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
    progress: Callable[[int, int], None] | None = None,
) -> SparseCoefficients:
    """As `solve_omp`, with the targets divided among the ranks; every rank gets the whole result.

    All ranks must call this, with the same arguments.
    """
    ranks = world()
    if ranks == 1:
        return solve_omp(targets, atoms, k, exact=exact, memory=memory, device=device, progress=progress)
    check_problem(targets, atoms, k)
    n, share = len(targets), -(-len(targets) // ranks)
    own = slice(min(n, rank() * share), min(n, (rank() + 1) * share))

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(n * done // max(total, 1), n)

    device = torch.device(device)
    if memory is None:  # ranks on one machine share what it has
        together = _local_world() if device.type != "cuda" else -(-_local_world() // torch.cuda.device_count())
        memory = free_memory(device) // 2 // together
    solved = solve_omp(targets[own], atoms, k, exact=exact, memory=memory, device=device, progress=tell)
    return SparseCoefficients(
        *(_gathered(t, share, device)[:n] for t in (solved.indices, solved.values, solved.n_active, solved.residual))
    )


def _gathered(own: torch.Tensor, share: int, device: torch.device) -> torch.Tensor:
    """The shares of all ranks, end to end; the last ones are padded. NCCL carries only what is on a GPU."""
    place = device if dist.get_backend() == "nccl" else torch.device("cpu")
    padded = own.new_zeros(share, *own.shape[1:])
    padded[: len(own)] = own
    padded = padded.to(place)
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    return torch.cat(parts).cpu()
