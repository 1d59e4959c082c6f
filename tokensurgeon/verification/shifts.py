"""Say by how much calibration may have moved rows, and take that off."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from tokensurgeon.alignment import Ids
from tokensurgeon.evaluation.states import read_states
from tokensurgeon.transfer.rows import atom_ids
from tokensurgeon.transfer.silence import calibrating_shifts, common_direction
from tokensurgeon.transfer.states import HeadStates
from tokensurgeon.verification.evidence import Evidence

__all__ = ["Shifts"]

_ROUNDING, _SEEN = 5e-4, 1 / 8
"""Of a row's norm: less is no shift that shows; of all rows: less show no common direction."""
_ALIKE = 0.02
"""Of a shift: how far the states of one machine may turn away from those of another."""
_NATS = 100
"""Times the tolerance of rows: by how many nats a shift may be another."""


@dataclass(frozen=True, eq=False)
class Shifts:
    """What calibration did to an output's head, made again where that can be.

    Attributes:
        evidence: The models.
        states: What the base's head sees on text, if it is run here and calibration went by the same text.
        unproven: Why they are not known; empty where they are.
    """

    evidence: Evidence
    states: HeadStates | None
    unproven: str

    @classmethod
    def of(cls, evidence: Evidence, run: bool) -> Shifts | None:
        """None where no row can have been calibrated.

        Args:
            evidence: The models.
            run: Whether the base is run.
        """
        content = evidence.content
        if not content.get("calibrated") or content.get("not_run") is not None:
            return None  # calibration goes by what the base's head sees when it is run
        if evidence.donor_matrices is None:
            return cls(evidence, None, "that takes the donor's weights")
        if not run:
            return cls(evidence, None, "the base is not run here")
        if content["options"].get("text"):
            return cls(evidence, None, "they go by a text that is not kept")
        made, here = content.get("versions", {}).get("python"), platform.python_version()
        if made != here:
            return cls(evidence, None, f"they go by the text of Python {made or 'unknown'}, and this is {here}")
        return cls(evidence, read_states(evidence.base, torch.device("cpu"), None)[1], "")

    def taken_off(
        self, rows: torch.Tensor, wanted: torch.Tensor, old: torch.Tensor, ids: Ids, allowed: float, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is left of the deviations of (n, columns) rows of the head, and (n,) what may remain of each for that.

        Args:
            rows: As written, with the bias as last column where there is one.
            wanted: The same before calibration.
            old: The base's.
            ids: (n,) the tokens.
            allowed: Of a row's norm, how far it may be from what is made again.
            dtype: As which rows are stored.
        """
        left = rows - wanted
        if self.states is None:
            return self._along_one(left, wanted, _ROUNDING + 2 * torch.finfo(dtype).eps)
        biased = self.states.states.shape[1] < rows.shape[1]
        seen = self.states.with_constant() if biased else self.states
        direction = common_direction(seen.states)
        expected = self._expected(seen, wanted, old, ids)
        amount = left @ direction / direction.square().sum()
        good = (amount - expected).abs() <= _NATS * allowed + _ALIKE * expected.abs()
        amount = torch.where(good, amount, 0.0)
        length = amount.abs() * torch.linalg.vector_norm(direction)
        return left - amount[:, None] * direction, _ALIKE * length

    def _expected(self, seen: HeadStates, wanted: torch.Tensor, old: torch.Tensor, ids: Ids) -> torch.Tensor:
        plan, donor = self.evidence.manifest.plan, self.evidence.donor_matrices
        assert donor is not None
        own = donor.embedding if donor.head is None or self.evidence.out.layout.head is None else donor.head
        atoms = torch.from_numpy(atom_ids(plan, donor))
        sources = torch.from_numpy(plan.source)[atoms]
        return calibrating_shifts(seen, old[sources], own[atoms], wanted, own[torch.from_numpy(ids)])

    @staticmethod
    def _along_one(left: torch.Tensor, wanted: torch.Tensor, rounding: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Along the direction that most rows have in common, each alike however long; nothing if there are few."""
        nothing = torch.zeros(len(left))
        size = torch.linalg.vector_norm(left, dim=1)
        moved = size > rounding * torch.linalg.vector_norm(wanted, dim=1) + 1e-6
        if int(moved.sum()) <= _SEEN * len(left):  # calibration moves them all
            return left, nothing
        unit = torch.nn.functional.normalize(left[moved], dim=1)
        direction = torch.linalg.eigh(unit.T @ unit)[1][:, -1]
        return left - (left @ direction)[:, None] * direction, nothing
