"""Some rows of embedding and head that are trained, in front of matrices that are not."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["TrainedEmbedding", "TrainedHead", "TrainedRows", "put_in_front"]


class TrainedRows(nn.Module):
    """Copies of some rows of a matrix, in float32.

    Attributes:
        rows: (n, dim) parameter.
        ids: (n,) int64, ascending.
        place: (all rows,) int64: position in ``rows``, or -1.
    """

    ids: torch.Tensor
    place: torch.Tensor

    def __init__(self, matrix: torch.Tensor, ids: torch.Tensor) -> None:
        """Copy the rows ``ids`` of ``matrix``."""
        super().__init__()
        self.rows = nn.Parameter(matrix.detach()[ids].float())
        place = torch.full((len(matrix),), -1, device=ids.device)
        place[ids] = torch.arange(len(ids), device=ids.device)
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("place", place, persistent=False)

    @classmethod
    def of(cls, model: Any, ids: torch.Tensor) -> dict[str, TrainedRows]:
        """Those of a model: ``embedding`` and, where that is another matrix, ``head``."""
        embedding, head = (m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings()))
        return {"embedding": cls(embedding, ids)} | ({} if head is embedding else {"head": cls(head, ids)})


class TrainedEmbedding(nn.Module):
    """An embedding, some rows of which are trained."""

    def __init__(self, inner: Any, trained: TrainedRows) -> None:
        """Stand in front of ``inner``; what it multiplies its rows by (Gemma) is found by asking it."""
        super().__init__()
        self.inner, self.trained = inner, trained
        probe = int(inner.weight.detach().float().abs().amax(dim=1).argmax())
        with torch.no_grad():
            seen = inner(torch.tensor([probe], device=inner.weight.device))[0].float()
        stored = inner.weight[probe].detach().float()
        self.scale = float((seen @ stored) / (stored @ stored))

    @property
    def weight(self) -> torch.Tensor:
        """The matrix without what was learnt."""
        weight: torch.Tensor = self.inner.weight
        return weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows, trained ones where there are such."""
        fixed: torch.Tensor = self.inner(ids)
        place = self.trained.place[ids]
        own = self.trained.rows[place.clamp(min=0)] * self.scale
        return torch.where((place >= 0)[..., None], own.to(fixed.dtype), fixed)


class TrainedHead(nn.Module):
    """An LM head, some rows of which are trained.

    Attributes:
        seen: What it was last asked about.
    """

    def __init__(self, inner: Any, trained: TrainedRows) -> None:
        """Stand in front of ``inner``."""
        super().__init__()
        self.inner, self.trained = inner, trained
        self.seen: torch.Tensor | None = None

    @property
    def weight(self) -> torch.Tensor:
        """The matrix without what was learnt."""
        weight: torch.Tensor = self.inner.weight
        return weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits."""
        self.seen = hidden
        logits: torch.Tensor = self.inner(hidden)
        bias = getattr(self.inner, "bias", None)
        own = nn.functional.linear(
            hidden, self.trained.rows.to(hidden.dtype), None if bias is None else bias[self.trained.ids]
        )
        return logits.index_copy(-1, self.trained.ids, own.to(logits.dtype))


def put_in_front(model: Any, trained: dict[str, TrainedRows]) -> None:
    """Let a model use rows that are trained, as `TrainedRows.of` made them."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    model.set_input_embeddings(TrainedEmbedding(embedding, trained["embedding"]))
    model.set_output_embeddings(TrainedHead(head, trained.get("head", trained["embedding"])))
