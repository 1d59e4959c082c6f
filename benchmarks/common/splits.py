"""What tokens cost by how they stand to the base's: whole, first or inside pieces of one, joined from several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.common import texts
from benchmarks.common.measures import load
from tokensurgeon.alignment import RowPlan
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.evaluation.loss import Unit, describe_loss, read_base, score_ids, units_of
from tokensurgeon.vocabulary.meeting import token_bytes

__all__ = ["Splits"]


class Splits:
    """Text as a base reads it, to compare models with another tokenizer by."""

    def __init__(self, base: Path, transplant: Path, measures: dict[str, Any]) -> None:
        """Let the base read each corpus, ``bytes`` of it and in ``dtype``.

        The transplant has the tokenizer, and says which rows are whose.
        """
        manifest = Manifest.read(transplant)
        if manifest is None:
            raise ValueError(f"{transplant} has no manifest")
        left, right = OpenModel.open(str(base), "all"), OpenModel.open(str(transplant), "none")
        plan, sides = manifest.plan, (left.vocabulary, right.vocabulary)
        pieces = [piece for of in texts.corpora(measures["bytes"]).values() for piece in of]
        self.measures = measures
        self.pieces = read_base(load(base, measures), sides, plan.source, left.layout.rows, pieces)
        self.plan: RowPlan = plan
        self.vocabulary = right.vocabulary

    def of(self, directory: Path) -> dict[str, Any]:
        """Nats a token and bits per byte lost, by kind, of a model with the tokenizer."""
        loaded, spelled = load(directory, self.measures), token_bytes(self.vocabulary)
        units: list[Unit] = []
        for piece in self.pieces:
            units += units_of(piece, score_ids(loaded.model, loaded.prefix, piece.donor)[0], spelled)
        n_bytes = sum(piece.n_bytes for piece in self.pieces)
        found = describe_loss(units, n_bytes, lambda i: bool(self.plan.source[i] < 0), self.vocabulary.describe)
        whole = [unit for unit in units if unit.kind == "whole"]
        nats = {"base": sum(u.base for u in whole), "transplant": sum(sum(u.transplant) for u in whole)}
        found["whole"] = {side: total / max(1, len(whole)) for side, total in nats.items()}
        return {name: found[name] for name in ("bytes", "loss", "interval", "units", "split", "whole", "costliest")}
