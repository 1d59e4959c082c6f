"""Orthogonal Matching Pursuit for many targets at once, exact, with scans in reduced precision.

Pati, Rezaiifar and Krishnaprasad (1993); used for tokenizer transplantation by Goddard and
Fernandes Neto (arXiv 2506.06607). For every target y, until k atoms are picked:

1. *Scan.* Correlate the residual r with all m unit atoms. This is one matrix product per batch,
   and where most of the time goes, so it runs in bfloat16 where the hardware has it. The sign bit
   is masked off in place, which leaves magnitudes that order as integers, and only the largest of
   each block of `BLOCK` atoms is looked at next. Blocks are strided (atoms j, j + m/BLOCK, ...), so
   that their maxima are taken column by column.
2. *Re-score.* The `SHORTLIST` best atoms are correlated again in float32. With ã and r̃ for what
   rounding to bfloat16 makes of a unit atom a and of r, Cauchy-Schwarz bounds the change of a
   correlation by |a - ã|·|r| + |ã|·|r - r̃|, both of which are measured, plus the rounding of the
   product itself. The winner is certified if it beats every atom that was left out by that margin.
   A row that is not certified is scanned again in float32, so the pick is a float32 scan's.
3. *Orthogonalise.* The picked atom, made orthogonal to those before it (Gram-Schmidt, twice where
   the first pass cancels), is removed from the residual.

At the end a triangular solve gives the coefficients. Per target this costs
``2·k·m·d`` flops of scan, ``2·k·SHORTLIST·d`` of re-scoring and ``2·k²·d`` of orthogonalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tokensurgeon.errors import InputError

__all__ = ["SparseCoefficients", "solve_omp"]

BLOCK = 32
SHORTLIST = 16
_SIGNLESS = {torch.bfloat16: (torch.int16, 0x7FFF), torch.float32: (torch.int32, 0x7FFFFFFF)}
TINY = 1e-6
"""Relative to |y|: a residual or a correlation below this is float32 noise."""

Progress = Callable[[int, int], None]


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


def solve_omp(
    targets: torch.Tensor,
    atoms: torch.Tensor,
    k: int,
    *,
    tol: float = TINY,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> SparseCoefficients:
    """Approximate every target with k atoms, greedily.

    The same supports and coefficients as ``sklearn.linear_model.orthogonal_mp`` on unit atoms,
    ties aside (here the lowest index wins, among the `SHORTLIST` best).

    Args:
        targets: (n_targets, dim), any floating dtype.
        atoms: (n_atoms, dim). Need not be normalised; zero atoms are never picked.
        k: Atoms per target, the sparsity.
        tol: Stop a target when its residual's norm is at most ``tol`` times its own norm.
        batch_size: Targets solved together; by default chosen for about 1 GiB of work space.
        device: Where to solve; by default where ``targets`` are. Results are on the CPU.
        progress: Called with (targets done, targets in all).

    Returns:
        Coefficients on the CPU.

    Raises:
        InputError: On shapes that do not fit, non-finite values, or k out of range.
    """
    _check(targets, atoms, k)
    device = torch.device(device) if device is not None else targets.device
    if batch_size is None:
        per_target = 4 * len(atoms) + 8 * (k + SHORTLIST) * atoms.shape[1]
        batch_size = max(16, min(512, 2**30 // per_target))
    dictionary = _Dictionary.of(atoms.to(device), min(batch_size, max(1, len(targets))))
    n = len(targets)
    parts = []
    for start in range(0, n, batch_size):
        batch = targets[start : start + batch_size].to(device=device, dtype=torch.float32)
        parts.append([part.cpu() for part in _solve_batch(batch, dictionary, k, tol)])
        if progress is not None:
            progress(min(start + batch_size, n), n)
    if not parts:
        parts = [
            [
                torch.zeros(0, k, dtype=torch.int64),
                torch.zeros(0, k),
                torch.zeros(0, dtype=torch.int64),
                torch.zeros(0),
            ]
        ]
    return SparseCoefficients(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _check(targets: torch.Tensor, atoms: torch.Tensor, k: int) -> None:
    if targets.ndim != 2 or atoms.ndim != 2 or targets.shape[1] != atoms.shape[1]:
        raise InputError(
            f"targets {tuple(targets.shape)} and atoms {tuple(atoms.shape)} must be two matrices of equal width"
        )
    if not 1 <= k <= len(atoms):
        raise InputError(f"k={k} must be from 1 to the number of anchors, {len(atoms)}. Choose a smaller k")
    for name, tensor in (("target", targets), ("atom", atoms)):
        bad = torch.nonzero(~torch.isfinite(tensor).all(dim=1)).flatten()
        if len(bad):
            raise InputError(
                f"{len(bad)} {name} rows hold NaN or infinity (first: row {int(bad[0])}). "
                "The embedding is damaged; repair it or use another checkpoint"
            )


@dataclass(frozen=True, slots=True)
class _Dictionary:
    """Atoms prepared once, and room for one batch of scores.

    Attributes:
        unit: (m, dim) float32 of norm 1 (or 0).
        norms: (m,) float32.
        scan: (m rounded up to `BLOCK`, dim), the copy that is scanned.
        rounding: Largest |a - ã| over the atoms.
        scores: (batch_size, len(scan)) in the dtype of ``scan``, used again by every scan.
    """

    unit: torch.Tensor
    norms: torch.Tensor
    scan: torch.Tensor
    rounding: float
    scores: torch.Tensor

    @classmethod
    def of(cls, atoms: torch.Tensor, batch_size: int) -> _Dictionary:
        norms = torch.linalg.vector_norm(atoms.float(), dim=1)
        unit = atoms.float() / torch.where(norms > 0, norms, 1.0)[:, None]
        padding = -len(unit) % BLOCK
        scan = torch.nn.functional.pad(unit, (0, 0, 0, padding)) if padding else unit
        rounded = scan.to(_scan_dtype(atoms.device))
        error = float(torch.linalg.vector_norm(scan - rounded.float(), dim=1).max())
        return cls(unit, norms, rounded, error, rounded.new_empty(batch_size, len(rounded)))


def _scan_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively, with sums in float32."""
    if device.type != "cpu":
        return torch.float32
    fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.bfloat16 if fast() else torch.float32


def _solve_batch(
    batch: torch.Tensor, atoms: _Dictionary, k: int, tol: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    n, dim = batch.shape
    new = batch.new_zeros
    scale = torch.linalg.vector_norm(batch, dim=1)
    unit = batch / torch.where(scale > 0, scale, 1.0)[:, None]
    residual = unit.clone()
    basis = new(n, k, dim)
    upper = torch.eye(k, device=batch.device).expand(n, k, k).clone()
    projected = new(n, k)
    indices = new(n, k, dtype=torch.int64)
    active = scale > 0
    n_active = new(n, dtype=torch.int64)
    left = torch.linalg.vector_norm(residual, dim=1)

    for step in range(k):
        pick, correlation = _best_atom(residual, left, atoms)
        active = active & (left > tol) & (correlation > TINY)
        if not bool(active.any()):
            break
        direction, overlaps, length = _orthogonalise(atoms.unit[pick], basis[:, :step])
        active = active & (length > TINY)
        basis[:, step] = torch.where(active[:, None], direction, 0.0)
        upper[:, :step, step] = torch.where(active[:, None], overlaps, 0.0)
        upper[:, step, step] = torch.where(active, length, 1.0)
        weight = (basis[:, step] * residual).sum(dim=1)
        projected[:, step] = weight
        residual -= weight[:, None] * basis[:, step]
        left = torch.linalg.vector_norm(residual, dim=1)
        indices[:, step] = torch.where(active, pick, 0)
        n_active += active

    values = torch.linalg.solve_triangular(upper, projected[:, :, None], upper=True)[:, :, 0]
    fitted = torch.bmm(values[:, None], atoms.unit[indices])[:, 0]
    error = torch.linalg.vector_norm(unit - fitted, dim=1) * scale
    norms = atoms.norms[indices]
    values = values * scale[:, None] / torch.where(norms > 0, norms, 1.0)
    return indices, values, n_active, error


def _best_atom(residual: torch.Tensor, left: torch.Tensor, atoms: _Dictionary) -> tuple[torch.Tensor, torch.Tensor]:
    """The atom with the largest |correlation| per row, and that correlation, both as in float32."""
    n, blocks = len(residual), len(atoms.scan) // BLOCK
    rounded = residual.to(atoms.scan.dtype)
    scores = torch.mm(rounded, atoms.scan.T, out=atoms.scores[:n])
    bits, mask = _SIGNLESS[scores.dtype]
    magnitudes = scores.view(bits).bitwise_and_(mask).view(n, BLOCK, blocks)
    width = min(SHORTLIST, blocks)
    peak, block = magnitudes.amax(dim=1).topk(min(width + 1, blocks), dim=1)
    near = block[:, None, :width].expand(-1, BLOCK, -1)
    inside, place = magnitudes.gather(2, near).flatten(1).topk(SHORTLIST + 1, dim=1)
    place = place[:, :SHORTLIST]
    candidates = (place // width * blocks + block.gather(1, place % width)).clamp(max=len(atoms.unit) - 1)
    exact = torch.bmm(atoms.unit[candidates], residual[:, :, None])[:, :, 0].abs()
    best, index = _lowest_of_the_best(exact, candidates)

    left_out = inside[:, SHORTLIST] if width == blocks else torch.maximum(inside[:, SHORTLIST], peak[:, width])
    outside = left_out.contiguous().view(scores.dtype).float()
    if atoms.scan.dtype is torch.float32:
        return index, best
    epsilon = torch.finfo(scores.dtype).eps / 2
    sums = residual.shape[1] * torch.finfo(torch.float32).eps
    lost = torch.linalg.vector_norm(residual - rounded.float(), dim=1) * (1 + atoms.rounding)
    margin = lost + (atoms.rounding + sums) * left + epsilon * outside
    unsure = torch.nonzero(outside + margin > best).flatten()
    if len(unsure):
        again = (residual[unsure] @ atoms.unit.T).abs()
        every = torch.arange(len(atoms.unit), device=again.device).expand_as(again)
        best[unsure], index[unsure] = _lowest_of_the_best(again, every)
    return index, best


def _lowest_of_the_best(score: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row maximum, and the lowest index that reaches it within float32 rounding."""
    best = score.amax(dim=1)
    near = score >= best[:, None] * (1 - 4 * torch.finfo(torch.float32).eps)
    return best, torch.where(near, index, torch.iinfo(torch.int64).max).amin(dim=1)


def _orthogonalise(atom: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gram-Schmidt of one atom per row against that row's basis, repeated where it cancels."""
    overlaps = torch.bmm(basis, atom[:, :, None])[:, :, 0]
    rest = atom - torch.bmm(overlaps[:, None], basis)[:, 0]
    length = torch.linalg.vector_norm(rest, dim=1)
    again = torch.nonzero(length < math.sqrt(0.5)).flatten()
    if len(again):
        correction = torch.bmm(basis[again], rest[again, :, None])[:, :, 0]
        overlaps[again] += correction
        rest[again] -= torch.bmm(correction[:, None], basis[again])[:, 0]
        length = torch.linalg.vector_norm(rest, dim=1)
    return rest / length.clamp(min=TINY)[:, None], overlaps, length
