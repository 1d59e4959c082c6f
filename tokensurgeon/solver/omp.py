"""Solve Orthogonal Matching Pursuit for many targets at once.

Pati, Rezaiifar and Krishnaprasad (1993); used for tokenizer transplantation by Goddard and
Fernandes Neto (arXiv 2506.06607). For every target y, until k atoms are picked:

1. *Scan.* Correlate the residual r with all m unit atoms. This is one matrix product per batch, and
   where most of the time goes, so it runs in int8 or bfloat16 and yields a shortlist, with a bound on
   what any other atom can reach (see `tokensurgeon.solver.scan`).
2. *Re-score.* The shortlist is correlated again in float32. If its best atom does not reach the bound, so are all
   atoms whose scores say that they may be better (all that there are, on GPUs and where these are many). So the
   pick is a float32 scan's: for certain with ``exact``, and otherwise unless rounding conspires to an error of
   six standard deviations.
3. *Orthogonalise.* The picked atom, made orthogonal to those before it (Gram-Schmidt, twice where
   the first pass cancels), is removed from the residual.

At the end a triangular solve gives the coefficients. With s = `SHORTLIST`, a target costs ``2·k·m·d`` operations of
scan in low precision, ``2·k·s·d`` flops of re-scoring and ``2·k²·d`` of orthogonalisation. float32 has to settle 1 in
5,000 picks on real embeddings; 1 in 90 where they are to be certain and rows have a length of 1,536.

No step mixes rows, and products whose bits depend on their shape have one shape: on a CPU a target's
result does not depend, to the last bit, on the targets that are solved beside it.

On other devices nothing in a batch waits for a result: every step has the same shapes whatever the data, with room
for a fixed number of picks to settle and of atoms to orthogonalise twice. Targets that find no room there are few,
and are solved again at the end, as on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.solver.memory import free_memory
from tokensurgeon.solver.problem import check_problem
from tokensurgeon.solver.scan import (
    SHORTLIST,
    Dictionary,
    dots,
    full_precision,
    lowest_of_the_best,
    precision_for,
    scan_bytes,
)

__all__ = ["SparseCoefficients", "solve_omp"]

TINY = 1e-6
"""Relative to |y|: a residual or a correlation below this is float32 noise."""
_FEWEST, _MOST = 16, 1024
_SETTLED = 16
"""Picks that float32 settles in each step, where these have fixed shapes: ten times as many as there are to settle."""
_REPEATED = 8
"""One in so many atoms is orthogonalised twice at a time."""
_ALIGNED = 16
"""Dimensions are padded to 64 bytes, since the bits of a sum depend on where in memory a row begins."""


@dataclass(frozen=True, slots=True)
class SparseCoefficients:
    """Each target as a combination of at most k atoms.

    Attributes:
        indices: (n_targets, k) int64, atoms in the order in which they were picked. Entries at and
            beyond ``n_active`` are 0 and carry the value 0.
        values: (n_targets, k) float32, coefficients of the atoms as given (not of unit atoms).
        n_active: (n_targets,) int64, atoms really picked.
        residual: (n_targets,) float32, norm of target minus combination.
    """

    indices: torch.Tensor
    values: torch.Tensor
    n_active: torch.Tensor
    residual: torch.Tensor

    def __len__(self) -> int:
        """Number of targets."""
        return len(self.indices)

    def __getitem__(self, part: slice) -> SparseCoefficients:
        """Those of some targets."""
        return SparseCoefficients(self.indices[part], self.values[part], self.n_active[part], self.residual[part])


@torch.no_grad()
def solve_omp(
    targets: torch.Tensor,
    atoms: torch.Tensor,
    k: int,
    *,
    exact: bool = False,
    tol: float = TINY,
    memory: int | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SparseCoefficients:
    """Approximate every target with k atoms, greedily.

    The same supports and coefficients as ``sklearn.linear_model.orthogonal_mp`` on unit atoms,
    ties aside (here the lowest index wins, among the `SHORTLIST` best).

    Args:
        targets: (n_targets, dim), any floating dtype.
        atoms: (n_atoms, dim). Need not be normalised; zero atoms are never picked.
        k: Atoms per target, the sparsity.
        exact: Prove every pick; this takes up to twice as long.
        tol: Stop a target when its residual's norm is at most ``tol`` times its own norm.
        memory: Bytes of work space, besides the arguments and the result; by default half of what is
            free on the device. More than a batch of 1,024 targets (4,096 on GPUs) needs is not used.
        device: Where to solve; by default where ``targets`` are. Results are on the CPU.
        progress: Called with (targets done, targets in all).

    Returns:
        Coefficients on the CPU.

    Raises:
        InputError: On shapes that do not fit, non-finite values, k out of range, or too little memory.

    Example:
        >>> import tokensurgeon, torch
        >>> atoms = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
        >>> found = tokensurgeon.solve_omp(torch.tensor([[6.0, 0.5]]), atoms, k=2)
        >>> found.indices, found.values
        (tensor([[0, 1]]), tensor([[3.0000, 0.5000]]))
    """
    check_problem(targets, atoms, k)
    n, dim = len(targets), -(-targets.shape[1] // _ALIGNED) * _ALIGNED
    device = torch.device(device) if device is not None else targets.device
    precision = precision_for(device, exact)
    prepared, per_row = scan_bytes(len(atoms), dim, precision, device)
    if atoms.dtype is not torch.float32 or atoms.device != device or atoms.shape[1] != dim:
        prepared += 4 * len(atoms) * dim
    # Basis and shortlist, an eighth of the basis again, the triangular factor, and some vectors.
    per_row += 4 * (k * dim + SHORTLIST * dim + k * dim // 8 + k * k + 12 * dim + 8 * k)
    rows = min(_rows(memory, prepared, per_row, device), n)
    result = SparseCoefficients(
        torch.zeros(n, k, dtype=torch.int64), torch.zeros(n, k), torch.zeros(n, dtype=torch.int64), torch.zeros(n)
    )
    if not n:
        return result
    if progress is not None:
        progress(0, n)

    def aligned(some: torch.Tensor) -> torch.Tensor:
        padding = dim - some.shape[1]
        some = some.to(device=device, dtype=torch.float32)
        return torch.nn.functional.pad(some, (0, padding)) if padding else some

    with full_precision():  # the dictionary too: atoms that a coarse product turns are other atoms
        dictionary = Dictionary.of(aligned(atoms), rows, precision, exact or _proves(device, precision))
        room = torch.empty(rows, k + SHORTLIST, dim, device=device)
        for start in range(0, n, rows):
            part = slice(start, min(start + rows, n))

            def tell(step: int, part: slice = part) -> None:
                if progress is not None:
                    progress(part.start + (part.stop - part.start) * step // k, n)

            batch = aligned(targets[part])
            # What must be certain is unsure too often to foresee how much of it there will be.
            waits = device.type == "cpu" or exact
            solved, missed = _solve_batch(batch, dictionary, k, tol, room.view(-1), tell, waits)
            places = (result.indices, result.values, result.n_active, result.residual)
            for whole, piece in zip(places, solved, strict=True):
                whole[part] = piece
            if not waits and len(again := torch.nonzero(missed).flatten()):
                solved, _ = _solve_batch(batch[again], dictionary, k, tol, room.view(-1), lambda _: None, True)
                for whole, piece in zip(places, solved, strict=True):
                    whole[again.cpu() + start] = piece.cpu()
            if progress is not None:
                progress(part.stop, n)
    return result


def _proves(device: torch.device, precision: torch.dtype) -> bool:
    """Whether picks are proved unasked: on a processor that costs more only where a scan is in int8."""
    return device.type == "cpu" and precision is not torch.int8


def _rows(memory: int | None, prepared: int, per_row: int, device: torch.device) -> int:
    """Targets per batch: what the budget allows, up to where more is no faster."""
    budget = free_memory(device) // 2 if memory is None else memory
    rows = (budget - prepared) // per_row
    if rows < _FEWEST:
        mib = -(-(prepared + _FEWEST * per_row) // 2**20)
        raise InputError(
            f"{budget / 2**20:,.0f} MiB of memory is too little for this problem, which needs {mib:,} MiB. "
            + ("That is half of what is free. " if memory is None else "")
            + f"Give --memory {mib}MiB or more"
        )
    return min(rows, _MOST if device.type == "cpu" else 4 * _MOST)


def _solve_batch(
    batch: torch.Tensor,
    atoms: Dictionary,
    k: int,
    tol: float,
    room: torch.Tensor,
    tell: Callable[[int], None],
    waits: bool,
) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Indices, values, numbers of atoms and residuals; and (n,) bool, which are wrong for want of room.

    Args:
        batch: (n, dim) targets.
        atoms: To pick from.
        k: Atoms per target.
        tol: See `solve_omp`.
        room: For the basis and the shortlists.
        tell: Called with the steps done.
        waits: Look at what the device found, step by step, and do what that asks for; never short of room.
    """
    n, dim = batch.shape
    new = batch.new_zeros
    scale = torch.linalg.vector_norm(batch, dim=1)
    unit = atoms.turned(batch / torch.where(scale > 0, scale, 1.0)[:, None])
    residual = unit.clone()
    basis = room[: n * k * dim].view(n, k, dim)
    near = room[n * k * dim :][: n * SHORTLIST * dim].view(n * SHORTLIST, dim)
    upper = torch.eye(k, device=batch.device).expand(n, k, k).clone()
    projected = new(n, k)
    indices = new(n, k, dtype=torch.int64)
    active = scale > 0
    n_active = new(n, dtype=torch.int64)
    left = torch.linalg.vector_norm(residual, dim=1)
    missed = new(n, dtype=torch.bool)

    for step in range(k):
        active = active & (left > tol)
        pick, correlation, unsettled = _best_atom(residual, left, active, atoms, near, waits)
        active = active & (correlation > TINY)
        if waits and not bool(active.any()):
            break
        direction, overlaps, length, unrepeated = _orthogonalise(atoms.unit[pick], basis[:, :step], active, waits)
        missed |= unsettled | unrepeated
        active = active & (length > TINY)
        basis[:, step] = torch.where(active[:, None], direction, 0.0)
        upper[:, :step, step] = torch.where(active[:, None], overlaps, 0.0)
        upper[:, step, step] = torch.where(active, length, 1.0)
        weight = torch.linalg.vecdot(basis[:, step], residual)
        projected[:, step] = weight
        residual.addcmul_(weight[:, None], basis[:, step], value=-1)
        left = torch.linalg.vector_norm(residual, dim=1)
        indices[:, step] = torch.where(active, pick, 0)
        n_active += active
        if step + 1 < k:
            tell(step + 1)

    values = torch.linalg.solve_triangular(upper, projected[:, :, None], upper=True)[:, :, 0]
    picked = torch.index_select(atoms.unit, 0, indices.flatten(), out=basis.view(n * k, dim)).view(n, k, dim)
    error = torch.linalg.vector_norm(unit - _combined(values, picked), dim=1) * scale
    norms = atoms.norms[indices]
    values = values * scale[:, None] / torch.where(norms > 0, norms, 1.0)
    return (indices, values, n_active, error), missed


def _best_atom(
    residual: torch.Tensor, left: torch.Tensor, active: torch.Tensor, atoms: Dictionary, near: torch.Tensor, waits: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The atom with the largest |correlation| per active row, and that correlation, both as in float32.

    The last are the rows of which that is not settled.
    """
    found = atoms.shortlist(residual, left)
    torch.index_select(atoms.unit, 0, found.atoms.flatten(), out=near)
    best, index = lowest_of_the_best(dots(residual, near.view(*found.atoms.shape, -1)).abs(), found.atoms)
    some, others = _some_of(active & (found.bound > best), None if waits else _SETTLED)
    if len(some):
        index[some] = atoms.settled(found, residual, some, best[some])
        best[some] = dots(residual[some], atoms.unit[index[some]][:, None])[:, 0].abs()
    return index, best, others


def _some_of(wanted: torch.Tensor, room: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the rows that are wanted, and (n,) bool: which found no room among them.

    With ``room``, so many rows are given, those that are wanted first, and nothing waits for the device.
    """
    if room is None:
        return torch.nonzero(wanted).flatten(), torch.zeros_like(wanted)
    some = wanted.int().topk(min(room, len(wanted))).indices
    return some, wanted.index_fill(0, some, False)


def _combined(weights: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """(n, s) with (n, s, d) to (n, d)."""
    return torch.bmm(weights[:, None], matrix)[:, 0]


def _orthogonalise(
    atom: torch.Tensor, basis: torch.Tensor, active: torch.Tensor, waits: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gram-Schmidt of one atom per active row against that row's basis, repeated where it cancels.

    The last are the rows where it was not repeated, and should be.
    """
    overlaps = dots(atom, basis)
    rest = atom - _combined(overlaps, basis)
    length = torch.linalg.vector_norm(rest, dim=1)
    few = -(-len(atom) // _REPEATED)  # their basis is copied
    again, others = _some_of(active & (length < 0.5), None if waits else few)
    for start in range(0, len(again), few):
        some = again[start : start + few]
        own, chosen = rest[some], basis[some]
        correction = dots(own, chosen)
        overlaps[some] += correction
        rest[some] = own - _combined(correction, chosen)
    if len(again):
        length = torch.linalg.vector_norm(rest, dim=1)
    return rest / length.clamp(min=TINY)[:, None], overlaps, length, others
