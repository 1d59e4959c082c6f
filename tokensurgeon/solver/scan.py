"""Find the atoms that correlate most with each residual: one matrix product in reduced precision.

The product is made tile by tile, so that its scores are still in cache when they are reduced: of each
block of `BLOCK` atoms only the largest magnitude is kept, then the `SHORTLIST` best blocks are opened
and their `SHORTLIST` best atoms returned, with a bound on what any other atom can reach in float32.
Blocks are strided (atoms j, j + w, j + 2w, ... of a tile), so that maxima are taken column by column.

With ã and r̃ for what rounding leaves of a unit atom a and of a residual r, a correlation a·r is off by at
most |a - ã|·|r| + |ã|·|r - r̃| (Cauchy-Schwarz); both errors are measured. That is the bound of a scan
whose picks must be *certain*. Otherwise all vectors are first turned by one random rotation, which changes
no correlation but spreads outlier dimensions evenly and makes the rounding errors point anywhere. Such an
error e moves a correlation by |e|/√dim in the mean, and `SIGMAS` times that is taken for the bound. It is
so much smaller that int8 will do, which is twice as fast as bfloat16 on CPUs that have both and no AMX.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

__all__ = [
    "SHORTLIST",
    "Dictionary",
    "Shortlist",
    "cpu_has",
    "dots",
    "full_precision",
    "lowest_of_the_best",
    "precision_for",
    "scan_bytes",
]

BLOCK = 32
SHORTLIST = 16
SIGMAS = 6.0
_TILE = 2048
_FULL = 16
"""Rows of a float32 scan. Always as many, since the bits of a product depend on its shape."""
_RIVALS = 2048
"""Atoms of one row that are looked at one by one; beyond, a float32 scan is faster. Untrained ones may be that many."""
_TURNED = 64
"""Rows turned together, for the same reason."""
_LEAST = BLOCK * (SHORTLIST + 1)
_SCORES = {torch.int8: torch.int32, torch.bfloat16: torch.bfloat16, torch.float32: torch.float32}
_SIGNLESS = {torch.bfloat16: (torch.int16, 0x7FFF), torch.float32: (torch.int32, 0x7FFFFFFF)}


def precision_for(device: torch.device, certain: bool) -> torch.dtype:
    """What the hardware multiplies fastest, among what the bound allows."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    if device.type != "cpu":
        return torch.float32
    if cpu_has("amx_bf16"):
        return torch.bfloat16  # int8 has sums of twice the bytes, and what is left of its lead is lost on them
    if not certain and (cpu_has("avx512_vnni") or cpu_has("avx_vnni")):
        return torch.int8
    return torch.bfloat16 if cpu_has("avx512_bf16") else torch.float32


def cpu_has(feature: str) -> bool:
    """Whether the processor has instructions, by torch's name; older versions of torch do not tell."""
    tell = getattr(torch.cpu, "get_capabilities", None)
    return tell is not None and bool(tell().get(feature, False))


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products in float32, and sums of bfloat16 products too, whatever the program around us allows."""
    places: list[tuple[Any, str, Any]] = [
        (getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", "ieee"),
        (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
    ]
    places = [place for place in places if hasattr(place[0], place[1])]  # torch from 2.9 on
    if torch.cuda.is_available():
        places.append((torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False))
    before = [getattr(place, name) for place, name, _ in places]
    for place, name, value in places:
        setattr(place, name, value)
    try:
        yield
    finally:
        for (place, name, _), value in zip(places, before, strict=True):
            setattr(place, name, value)


@dataclass(frozen=True, slots=True)
class Shortlist:
    """What one scan found; good until the next.

    Attributes:
        atoms: (n, `SHORTLIST`) int64, the best of every residual, in no order.
        bound: (n,) float32, what |correlation| with any other atom is at most.
        magnitudes: (tiles, n, atoms of a tile), all scores without signs; ordered as integers are.
        unit: (n,), what 1 stands for in a score.
        margin: (n,) float32, what rounding took from a correlation at most.
    """

    atoms: torch.Tensor
    bound: torch.Tensor
    magnitudes: torch.Tensor
    unit: torch.Tensor
    margin: torch.Tensor


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Atoms prepared once, and room for the scores of one batch.

    Attributes:
        unit: (m, dim) float32 atoms of norm 1 (or 0), turned by the rotation if there is one.
        norms: (m,) float32.
        rotation: (dim, dim) orthogonal, or None where picks must be certain.
        tiles: Each (dim, atoms of a tile) in the scan's precision; the last is padded with zeros.
        step: What 1 stands for in int8; 1.0 otherwise.
        rounding: Largest |a - ã| over the atoms.
        scores: Flat room for ``rows`` times all atoms.
        peaks: (rows, blocks), the largest score of each block.
    """

    unit: torch.Tensor
    norms: torch.Tensor
    rotation: torch.Tensor | None
    tiles: list[torch.Tensor]
    step: float
    rounding: float
    scores: torch.Tensor
    peaks: torch.Tensor

    @classmethod
    def of(cls, atoms: torch.Tensor, rows: int, precision: torch.dtype, certain: bool) -> Dictionary:
        """Prepare (m, dim) float32 atoms for batches of up to ``rows`` residuals."""
        m, dim = atoms.shape
        norms = torch.linalg.vector_norm(atoms, dim=1)
        unit = atoms / torch.where(norms > 0, norms, 1.0)[:, None]
        rotation = None if certain else _rotation(dim).to(atoms.device)
        if rotation is not None:
            unit = unit @ rotation
        step = float(torch.stack(unit.aminmax()).abs().max()) / 127 or 1.0 if precision is torch.int8 else 1.0
        width, tiles, rounding = _tile_width(m, atoms.device), [], 0.0
        for start in range(0, m, width):
            rounded = torch.zeros(width, dim, dtype=precision, device=atoms.device)
            for first in range(start, min(start + width, m), _TILE):
                chunk = unit[first : min(first + _TILE, start + width)]
                small = chunk.to(precision) if precision is not torch.int8 else (chunk / step).round_().to(precision)
                error = torch.linalg.vector_norm(chunk - small.float().mul_(step), dim=1)
                rounding = max(rounding, float(error.max()))
                rounded[first - start : first - start + len(chunk)] = small
            # oneDNN multiplies int8 faster if it need not transpose.
            tiles.append(rounded.T.contiguous() if precision is torch.int8 else rounded.T)
        kind = _SCORES[precision]
        scores = torch.empty(rows * len(tiles) * width, dtype=kind, device=atoms.device)
        order = _SIGNLESS[kind][0] if kind in _SIGNLESS else kind
        peaks = torch.empty(rows, len(tiles) * width // BLOCK, dtype=order, device=atoms.device)
        return cls(unit, norms, rotation, tiles, step, rounding, scores, peaks)

    def turned(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, dim) float32 in the coordinates of ``unit``."""
        if self.rotation is None:
            return rows
        padded = torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % _TURNED)).view(-1, _TURNED, rows.shape[1])
        return torch.cat([part @ self.rotation for part in padded])[: len(rows)]

    def shortlist(self, residual: torch.Tensor, left: torch.Tensor) -> Shortlist:
        """The best atoms of every residual, by the scan.

        Args:
            residual: (n, dim) float32, turned; n at most ``rows``.
            left: (n,) its norms.
        """
        query, unit, margin = self._round(residual, left)
        magnitudes, peaks = self._scan(query)
        width = magnitudes.shape[2]
        per_tile = width // BLOCK
        top, block = peaks.topk(SHORTLIST + 1, dim=1)
        block = block[:, :SHORTLIST]
        tile, column = block // per_tile, block % per_tile
        row = torch.arange(len(residual), device=residual.device)[:, None]
        first = (tile * len(residual) + row) * width + column
        inside = torch.arange(0, width, per_tile, device=residual.device)
        opened = magnitudes.view(-1).take((first[:, :, None] + inside).flatten(1))
        best, place = opened.topk(SHORTLIST + 1, dim=1)
        place = place[:, :SHORTLIST]
        which = place // BLOCK
        atom = tile.gather(1, which) * width + place % BLOCK * per_tile + column.gather(1, which)
        outside = torch.maximum(best[:, SHORTLIST], top[:, SHORTLIST])
        if self.scores.dtype in _SIGNLESS:
            outside = outside.view(self.scores.dtype).float() / (1 - torch.finfo(self.scores.dtype).eps / 2)
        atoms = atom.clamp(max=len(self.unit) - 1)
        return Shortlist(atoms, outside * unit + margin, magnitudes, unit, margin)

    def settled(
        self, found: Shortlist, residual: torch.Tensor, rows: torch.Tensor, reached: torch.Tensor
    ) -> torch.Tensor:
        """The best atom of some rows as in float32, of equals the lowest, whatever the scan's rounding did.

        Args:
            found: By the last scan, of ``residual``.
            residual: (n, dim) float32, turned.
            rows: (s,) int64.
            reached: (s,) float32, the |correlation| that some atom of theirs has.

        Returns:
            (s,) int64.
        """
        if residual.device.type != "cpu":  # to find the few atoms that may be better takes longer there
            return self.full(residual[rows])
        floor = ((_nearly(reached) - found.margin[rows]) / found.unit[rows]).clamp(min=0.0)
        floor = floor.to(self.scores.dtype).view(found.magnitudes.dtype)  # rounded as scores are: none is left out
        index = torch.full_like(rows, len(self.unit))
        for i, row in enumerate(rows.tolist()):
            rivals = torch.nonzero((found.magnitudes[:, row] >= floor[i]).flatten()[: len(self.unit)]).flatten()
            if 0 < len(rivals) <= _RIVALS:
                index[i] = self._best_of(residual[row], rivals)
        many = index == len(self.unit)
        if many.any():
            index[many] = self.full(residual[rows[many]])
        return index

    def _best_of(self, residual: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
        """The best of some atoms for one residual; in lines of as many, since bits depend on a product's shape.

        In float64: beside what float32 takes for equal, its rounding would count as much again.
        """
        lines = torch.cat([rivals, rivals[:1].expand(-len(rivals) % SHORTLIST)]).view(-1, SHORTLIST)
        score = dots(residual.double().expand(len(lines), -1), self.unit[lines].double()).abs()
        return lowest_of_the_best(score.view(1, -1), lines.view(1, -1))[1][0]

    def full(self, residual: torch.Tensor) -> torch.Tensor:
        """(n,) int64, the best atom of every residual by a scan in float32; of equals the lowest."""
        found = []
        room = torch.empty(_FULL, len(self.unit), device=residual.device)
        for start in range(0, len(residual), _FULL):
            part = residual[start : start + _FULL]
            padded = torch.nn.functional.pad(part, (0, 0, 0, _FULL - len(part)))
            scores = torch.mm(padded, self.unit.T, out=room).abs_()
            near = scores >= _nearly(scores.amax(dim=1, keepdim=True))
            found.append(near.view(torch.uint8).argmax(dim=1)[: len(part)])
        return torch.cat(found)

    def _round(self, residual: torch.Tensor, left: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Residuals in the scan's precision, the value of one unit of score, and the bound on its error."""
        precision, dim = self.tiles[0].dtype, residual.shape[1]
        unit = torch.ones_like(left)
        if precision is torch.int8:
            scale = residual.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
            whole = (residual / scale).round_()
            query, lost = whole.to(precision), torch.addcmul(residual, whole, scale, value=-1)
            unit = scale[:, 0] * self.step
        else:
            query = residual.to(precision)
            lost = residual - query.float()
        lost = torch.linalg.vector_norm(lost, dim=1)
        if self.rotation is None:
            margin = lost * (1 + self.rounding) + self.rounding * left
        else:
            margin = torch.hypot(lost, self.rounding * left) * (SIGMAS / math.sqrt(dim))
        sums = 0.0 if precision is torch.int8 else dim * torch.finfo(torch.float32).eps
        return query, unit, margin + sums * left

    def _scan(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(tiles, n, atoms of a tile) magnitudes that order as integers, and (n, blocks) their maxima."""
        n, width = len(query), self.tiles[0].shape[1]
        scores = self.scores[: len(self.tiles) * n * width].view(len(self.tiles), n, width)
        kind, mask = _SIGNLESS.get(scores.dtype, (scores.dtype, 0))
        magnitudes, per_tile = scores.view(kind), width // BLOCK
        for i, tile in enumerate(self.tiles):
            if scores.dtype in _SIGNLESS:
                torch.mm(query, tile, out=scores[i])
                magnitudes[i].bitwise_and_(mask)
            else:
                torch._int_mm(query, tile, out=scores[i])
                scores[i].abs_()
            blocks = magnitudes[i].view(n, BLOCK, per_tile)
            torch.amax(blocks, dim=1, out=self.peaks[:n, i * per_tile : (i + 1) * per_tile])
        return magnitudes, self.peaks[:n]


def dots(vector: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """(n, d) with (n, s, d) to (n, s). This form is much faster on CPUs than ``matrix @ vector``."""
    return torch.bmm(vector[:, None], matrix.transpose(1, 2))[:, 0]


def lowest_of_the_best(score: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row maximum, and the lowest index that reaches it within float32 rounding."""
    best = score.amax(dim=1)
    near = score >= _nearly(best)[:, None]
    return best, torch.where(near, index, torch.iinfo(torch.int64).max).amin(dim=1)


def _nearly(best: torch.Tensor) -> torch.Tensor:
    """What is the best too, within float32 rounding."""
    return best * (1 - 4 * torch.finfo(torch.float32).eps)


def scan_bytes(n_atoms: int, dim: int, precision: torch.dtype, device: torch.device) -> tuple[int, int]:
    """What a `Dictionary` takes: bytes in any case, and bytes per row of a batch."""
    width = _tile_width(n_atoms, device)
    padded = -(-n_atoms // width) * width
    score = _SCORES[precision].itemsize
    prepared = 4 * n_atoms * dim + padded * dim * precision.itemsize + 4 * dim * dim
    # The atoms before they are turned, the rotation's making, chunks and a tile twice; a float32 scan later.
    preparing = 4 * n_atoms * dim + 24 * dim * dim + 12 * _TILE * dim + width * dim * precision.itemsize
    later = _FULL * 5 * n_atoms + 15 * padded + _RIVALS * (12 * dim + 56)
    opened = SHORTLIST * BLOCK * (8 + score)
    return prepared + max(preparing, later), padded * score * (BLOCK + 1) // BLOCK + opened


def _tile_width(n_atoms: int, device: torch.device) -> int:
    """Atoms of one tile: few enough for the cache on a CPU, all of them elsewhere."""
    whole = -(-max(n_atoms, _LEAST) // BLOCK) * BLOCK
    return min(_TILE, whole) if device.type == "cpu" else whole


@lru_cache(maxsize=1)
def _rotation(dim: int) -> torch.Tensor:
    """A random orthogonal matrix, always the same."""
    noise = torch.randn(dim, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotation: torch.Tensor = torch.linalg.qr(noise).Q.float()
    return rotation
