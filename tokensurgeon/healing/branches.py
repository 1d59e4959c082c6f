"""Let a student read many beginnings of tokens behind one text, in one pass.

A branch is a part of a token that the base may write next and that the student splits. All branches of a piece stand
behind its text in one sequence: each sees the text up to its own place, and itself. So hundreds of positions inside of
tokens are seen for one reading of the text, which has one in 25 of its own.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokensurgeon.healing.splits import Path, Splits
from tokensurgeon.healing.targets import Beliefs

__all__ = ["DEEPEST", "Branch", "Layout", "draw_branches", "lay_out", "reads_branches"]

log = logging.getLogger(__name__)

DEEPEST = 5
"""Ids that a branch has at most."""
_APART, _LEAK = 0.25, 1e-5
"""Of what another mask changes: what rounding may."""

Branch = tuple[int, Path]
"""Index of the meeting that it stands behind, and ids of its token so far."""


def draw_branches(beliefs: Beliefs, splits: Splits, most: int, generator: torch.Generator) -> list[Branch]:
    """Beginnings of tokens that the base may write, drawn by its probabilities; each behind its own beginnings.

    Args:
        beliefs: The base's, of some places of a piece.
        splits: Which tokens are split, and how.
        most: So many at most.
        generator: On the CPU.
    """
    known = torch.nonzero(beliefs.token < len(splits.cuts))[:, 0]
    split = known[splits.several[beliefs.token[known]]]
    if most < 1 or not len(split):
        return []
    drawn = torch.multinomial(beliefs.mass[split], min(most, len(split)), generator=generator)
    found: dict[Branch, None] = {}
    for entry in split[drawn].tolist():
        row, cut = int(beliefs.row[entry]), splits.cuts[int(beliefs.token[entry])]
        new = [(row, tuple(cut[:length])) for length in range(1, min(len(cut), DEEPEST + 1))]
        new = [branch for branch in new if branch not in found]
        if len(found) + len(new) > most:
            break
        found |= dict.fromkeys(new)
    return list(found)


@dataclass(frozen=True, slots=True)
class Layout:
    """A piece and its branches as one sequence.

    Attributes:
        ids: (1, positions) int64, the piece's and behind them the last one of each branch.
        position: (1, positions) int64, as if each branch stood alone behind its place.
        visible: (positions, positions) bool, what each position sees.
    """

    ids: torch.Tensor
    position: torch.Tensor
    visible: torch.Tensor

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """(1, 1, positions, positions) to be added to attention."""
        mask = torch.zeros(self.visible.shape, dtype=dtype).masked_fill_(~self.visible, torch.finfo(dtype).min)
        return mask[None, None]


def lay_out(ids: Sequence[int], meet: Sequence[tuple[int, int]], branches: Sequence[Branch]) -> Layout:
    """Put branches behind a text.

    Args:
        ids: The student's, of the text.
        meet: The meetings that branches stand behind.
        branches: A branch's beginnings come before it.
    """
    n, total = len(ids), len(ids) + len(branches)
    last, position = list(ids), list(range(n))
    visible = torch.eye(total, dtype=torch.bool)
    visible[:n, :n] = torch.ones(n, n, dtype=torch.bool).tril()
    place = {branch: n + index for index, branch in enumerate(branches)}
    for (row, path), own in place.items():
        begin = meet[row][0]
        visible[own] |= visible[place[row, path[:-1]] if len(path) > 1 else begin]
        last.append(path[-1])
        position.append(begin + len(path))
    return Layout(torch.tensor([last]), torch.tensor([position]), visible)


def reads_branches(model: Any, ids: Sequence[int], meet: Sequence[tuple[int, int]], branches: Sequence[Branch]) -> bool:
    """Whether a model gives a branch the logits that it gives its text alone, and looks at nothing that is masked.

    Rounding makes the former differ, so that it is compared with what no mask changes. The latter would show a layer
    that mixes neighbours and asks no mask, such as a convolution's: other ids in the masked places change no logit.

    Args:
        model: In evaluation mode.
        ids: Of some text.
        meet: See `lay_out`.
        branches: Behind it. The deepest is tried, and the last of one id, whose neighbours are others'.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    row, path = deepest = max(branches, key=lambda branch: len(branch[1]))
    alone = torch.tensor([[*ids[: meet[row][0] + 1], *path]])
    laid = lay_out(ids, meet, branches)
    place, ours = len(ids) + branches.index(deepest), laid.mask(model.get_input_embeddings().weight.dtype)
    single = max(index for index, branch in enumerate(branches) if len(branch[1]) == 1) + len(ids)
    others = torch.where(laid.visible[single], laid.ids, laid.ids.roll(1))
    passes = {"alone": (alone, None), "ours": (laid.ids, ours), "none": (laid.ids, None), "others": (others, ours)}
    logits = {}
    for name, (read, mask) in passes.items():
        position = None if name == "alone" else laid.position
        more = {"attention_mask": mask, "position_ids": position}
        moved = {key: value.to(model.device) for key, value in more.items() if value is not None}
        with torch.no_grad():
            try:
                found = model(input_ids=read.to(model.device), use_cache=False, **moved).logits[0].float()
            except Exception as error:  # whatever a model class raises at a mask that it did not expect
                log.info("%s takes no mask of four dimensions (%s)", type(model).__name__, error)
                return False
        logits[name] = found
    apart, none = ((logits[name][place] - logits["alone"][-1]).norm() for name in ("ours", "none"))
    leaked = (logits["others"][single] - logits["ours"][single]).norm()
    return bool(apart < _APART * none and leaked <= _LEAK * none)
