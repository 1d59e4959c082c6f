"""Train some rows of embedding and head, in front of matrices that are not trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["AskedHead", "TrainedEmbedding", "TrainedHead", "TrainedRows", "parameter_groups", "put_in_front"]


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


class AskedHead(nn.Module):
    """An LM head that tells what it was asked about.

    Attributes:
        seen: (pieces, positions, dim) states of the last call.
        wanted: Indices of piece and position at which logits are wanted; None for all.
    """

    seen: torch.Tensor

    def __init__(self, inner: Any) -> None:
        """Stand in front of ``inner``."""
        super().__init__()
        self.inner = inner
        self.wanted: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def weight(self) -> torch.Tensor:
        """The matrix without what was learnt."""
        weight: torch.Tensor = self.inner.weight
        return weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The head's bias; some model classes ask for it."""
        return getattr(self.inner, "bias", None)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits, of all positions or (1, wanted, rows)."""
        self.seen = hidden
        logits: torch.Tensor = self.inner(self.asked(hidden))
        return logits

    def asked(self, hidden: torch.Tensor) -> torch.Tensor:
        """The states at which logits are wanted."""
        return hidden if self.wanted is None else hidden[self.wanted][None]


class TrainedHead(AskedHead):
    """An LM head, some rows of which are trained."""

    def __init__(self, inner: Any, trained: TrainedRows) -> None:
        """Stand in front of ``inner``."""
        super().__init__(inner)
        self.trained = trained

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits = super().forward(hidden)
        bias = None if self.bias is None else self.bias[self.trained.ids]
        own = nn.functional.linear(self.asked(hidden), self.trained.rows.to(hidden.dtype), bias)
        return logits.index_copy_(-1, self.trained.ids, own.to(logits.dtype))  # in place: they are large


def put_in_front(model: Any, trained: dict[str, TrainedRows]) -> None:
    """Let a model use rows that are trained, as `TrainedRows.of` made them."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    model.set_input_embeddings(TrainedEmbedding(embedding, trained["embedding"]))
    model.set_output_embeddings(TrainedHead(head, trained.get("head", trained["embedding"])))


def parameter_groups(
    model: Any, trained: Mapping[str, TrainedRows], learning_rate: float, others: float
) -> list[dict[str, Any]]:
    """What an optimizer is to train, with learning rates: rows that require gradients, and all else that does.

    Args:
        model: With trained rows in front.
        trained: The rows.
        learning_rate: Of rows, in units of their root mean square per coordinate.
        others: Of everything else.
    """
    own = [t.rows for t in trained.values()]
    groups: list[dict[str, Any]] = [
        {"params": [rows], "lr": learning_rate * float(rows.detach().square().mean().sqrt())}
        for rows in own
        if rows.requires_grad
    ]
    body = [p for p in model.parameters() if p.requires_grad and all(p is not q for q in own)]
    return groups + ([{"params": body, "lr": others}] if body else [])
