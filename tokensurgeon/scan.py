"""Which atoms correlate most with each residual: one matrix product in reduced precision.

The product is made tile by tile, so that its scores are still in cache when they are reduced: of each
block of `BLOCK` atoms only the largest magnitude is kept, then the `SHORTLIST` best blocks are opened
and their `SHORTLIST` best atoms returned, with a bound on what any other atom can reach in float32.
Blocks are strided (atoms j, j + w, j + 2w, ... of a tile), so that maxima are taken column by column.

What rounding did to a correlation a·r is bounded in one of two ways. With ã and r̃ for what is left of
a unit atom a and of r:

* *Certain* (bfloat16, float32): Cauchy-Schwarz, |a - ã|·|r| + |ã|·|r - r̃|, both measured, plus the
  rounding of the sums.
* *Beyond reasonable doubt* (int8, twice as fast): all vectors are turned by one random rotation, which
  spreads outlier dimensions and makes the direction of the rounding errors random. A correlation is then
  off by |error|/√dim in the mean, and `SIGMAS` times that is taken for the bound. Integer sums are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

__all__ = ["SHORTLIST", "Dictionary", "Precision", "full_precision", "precision_for", "scan_bytes"]

Precision = torch.dtype
BLOCK = 32
SHORTLIST = 16
SIGMAS = 6.0
_TILE = 2048
_LEAST = BLOCK * (SHORTLIST + 1)
_SCORES = {torch.int8: torch.int32, torch.bfloat16: torch.bfloat16, torch.float32: torch.float32}
_SIGNLESS = {torch.bfloat16: (torch.int16, 0x7FFF), torch.float32: (torch.int32, 0x7FFFFFFF)}


def precision_for(device: torch.device, exact: bool) -> Precision:
    """What the hardware multiplies fastest, among what ``exact`` allows."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type != "cpu":
        return torch.float32
    if not exact and (_cpu_has("avx512_vnni") or _cpu_has("avx_vnni")):
        return torch.int8
    return torch.bfloat16 if _cpu_has("avx512_bf16") else torch.float32


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products in float32, and sums of bfloat16 products too, whatever the program around us allows."""
    products = torch.get_float32_matmul_precision()
    sums = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = sums


def _cpu_has(feature: str) -> bool:
    """Older versions of torch do not tell, and scan in float32."""
    tell = getattr(torch.cpu, "get_capabilities", None)
    return tell is not None and bool(tell().get(feature, False))


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Atoms prepared once, and room for the scores of one batch.

    Attributes:
        unit: (m, dim) float32 atoms of norm 1 (or 0).
        norms: (m,) float32.
        tiles: Each (dim, atoms of a tile) in the scan's precision; the last is padded with zeros.
        rotation: (dim, dim) orthogonal, for int8; None otherwise.
        step: What 1 stands for in int8; 1.0 otherwise.
        rounding: Largest |a - ã| over the atoms, once they are turned.
        scores: Flat room for ``rows`` times all atoms.
        peaks: (rows, blocks), the largest score of each block.
    """

    unit: torch.Tensor
    norms: torch.Tensor
    tiles: list[torch.Tensor]
    rotation: torch.Tensor | None
    step: float
    rounding: float
    scores: torch.Tensor
    peaks: torch.Tensor

    @classmethod
    def of(cls, atoms: torch.Tensor, rows: int, precision: Precision) -> Dictionary:
        """Prepare (m, dim) float32 atoms for batches of up to ``rows`` residuals."""
        m, dim = atoms.shape
        norms = torch.linalg.vector_norm(atoms, dim=1)
        unit = atoms / torch.where(norms > 0, norms, 1.0)[:, None]
        width = tile_width(m, atoms.device)
        turned, rotation, step = unit, None, 1.0
        if precision is torch.int8:
            rotation = _rotation(dim).to(atoms.device, torch.bfloat16 if _cpu_has("avx512_bf16") else torch.float32)
            turned = unit.to(rotation.dtype) @ rotation
            step = float(torch.stack(turned.aminmax()).abs().max()) / 127 or 1.0
        tiles, rounding = [], 0.0
        for start in range(0, m, width):
            chunk = turned[start : start + width].float()
            rounded = chunk.to(precision) if rotation is None else (chunk / step).round_().to(torch.int8)
            error = torch.linalg.vector_norm(chunk - rounded.float().mul_(step), dim=1)
            rounding = max(rounding, float(error.max()))
            tile = torch.nn.functional.pad(rounded, (0, 0, 0, width - len(rounded))).T
            # oneDNN multiplies int8 faster if it need not transpose.
            tiles.append(tile.contiguous() if precision is torch.int8 else tile)
        kind = _SCORES[precision]
        scores = torch.empty(max(rows, 2) * len(tiles) * width, dtype=kind, device=atoms.device)
        order = _SIGNLESS[kind][0] if kind in _SIGNLESS else kind
        peaks = torch.empty(rows, len(tiles) * width // BLOCK, dtype=order, device=atoms.device)
        return cls(unit, norms, tiles, rotation, step, rounding, scores, peaks)

    def shortlist(self, residual: torch.Tensor, left: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The best atoms of every residual, by the scan.

        Args:
            residual: (n, dim) float32, n at most ``rows``.
            left: (n,) its norms.

        Returns:
            (n, `SHORTLIST`) int64 atoms, in no order, and (n,) float32: what |correlation| with any other
            atom is at most.
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
        if self.rotation is None:
            outside = outside.view(self.scores.dtype).float() / (1 - torch.finfo(self.scores.dtype).eps / 2)
        return atom.clamp(max=len(self.unit) - 1), outside * unit + margin

    def full(self, residual: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """|correlation| with every atom in float32, as many rows at a time as there is room for scores."""
        room, m = self.scores.view(torch.float32), len(self.unit)
        rows = len(room) // m
        for start in range(0, len(residual), rows):
            part = slice(start, min(start + rows, len(residual)))
            n = part.stop - start
            yield part, torch.mm(residual[part], self.unit.T, out=room[: n * m].view(n, m)).abs_()

    def _round(
        self, residual: torch.Tensor, left: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | float, torch.Tensor]:
        """Residuals in the scan's precision, the value of one unit of score, and the bound on its error."""
        dim = residual.shape[1]
        if self.rotation is None:
            query = residual.to(self.tiles[0].dtype)
            lost = torch.linalg.vector_norm(residual - query.float(), dim=1)
            sums = dim * torch.finfo(torch.float32).eps
            return query, 1.0, lost * (1 + self.rounding) + (self.rounding + sums) * left
        turned = (residual.to(self.rotation.dtype) @ self.rotation).float()
        scale = turned.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
        whole = (turned / scale).round_()
        lost = torch.linalg.vector_norm(torch.addcmul(turned, whole, scale, value=-1), dim=1)
        # Turning rounds a vector, the rotation and their product, and does so to atoms and to residuals.
        turning = 3 * torch.finfo(torch.bfloat16).eps / 2 * left
        error = torch.stack([self.rounding * left, lost, turning, turning]).square_().sum(dim=0).sqrt_()
        return whole.to(torch.int8), scale[:, 0] * self.step, error * (SIGMAS / math.sqrt(dim))

    def _scan(self, query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(tiles, n, atoms of a tile) magnitudes that order as integers, and (n, blocks) their maxima."""
        n, width = len(query), self.tiles[0].shape[1]
        scores = self.scores[: len(self.tiles) * n * width].view(len(self.tiles), n, width)
        kind, mask = _SIGNLESS.get(scores.dtype, (scores.dtype, 0))
        magnitudes, per_tile = scores.view(kind), width // BLOCK
        for i, tile in enumerate(self.tiles):
            if self.rotation is None:
                torch.mm(query, tile, out=scores[i])
                magnitudes[i].bitwise_and_(mask)
            else:
                torch._int_mm(query, tile, out=scores[i])
                scores[i].abs_()
            blocks = magnitudes[i].view(n, BLOCK, per_tile)
            torch.amax(blocks, dim=1, out=self.peaks[:n, i * per_tile : (i + 1) * per_tile])
        return magnitudes, self.peaks[:n]


def tile_width(n_atoms: int, device: torch.device) -> int:
    """Atoms of one tile: few enough for the cache on a CPU, all of them elsewhere."""
    whole = -(-max(n_atoms, _LEAST) // BLOCK) * BLOCK
    return min(_TILE, whole) if device.type == "cpu" else whole


def scan_bytes(n_atoms: int, dim: int, precision: Precision, device: torch.device) -> tuple[int, int]:
    """What a `Dictionary` takes: bytes in any case, and bytes per row of a batch."""
    width = tile_width(n_atoms, device)
    padded = -(-n_atoms // width) * width
    score = _SCORES[precision].itemsize
    prepared = n_atoms * dim * 4 + padded * dim * precision.itemsize
    preparing = 4 * width * dim * 4 + (2 * dim * dim * 4 + n_atoms * dim * 4 if precision is torch.int8 else 0)
    opened = SHORTLIST * BLOCK * (8 + score)
    return prepared + preparing, padded * score * (BLOCK + 1) // BLOCK + opened


def _rotation(dim: int) -> torch.Tensor:
    """A random orthogonal matrix, always the same."""
    noise = torch.randn(dim, dim, generator=torch.Generator().manual_seed(0))
    rotation: torch.Tensor = torch.linalg.qr(noise).Q
    return rotation
