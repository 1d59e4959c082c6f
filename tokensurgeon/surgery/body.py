"""Run the base on text, for what its LM head sees there and how likely tokens are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tokensurgeon.alignment import RowPlan
from tokensurgeon.evaluation.loading import LoadedModel, pick_device
from tokensurgeon.evaluation.states import read_states
from tokensurgeon.evaluation.texts import Text
from tokensurgeon.progress import Progress
from tokensurgeon.surgery.options import TransplantOptions
from tokensurgeon.surgery.pair import Pair
from tokensurgeon.transfer.calibrate import counted_prior
from tokensurgeon.transfer.rows import VocabularyMatrices
from tokensurgeon.transfer.states import HeadStates
from tokensurgeon.vocabulary.streams import counted_ids

__all__ = ["Asked", "ask_base", "calibrates", "silent_rows"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the base and the text say.

    Attributes:
        states: What the base's LM head sees on text.
        prior: (n_rows,) how likely each of the donor's tokens is in the user's text, as `counted_prior` gives it; None
            without such text.
    """

    states: HeadStates
    prior: torch.Tensor | None


def ask_base(
    pair: Pair, options: TransplantOptions, texts: Mapping[str, Text], progress: Progress | None
) -> tuple[LoadedModel | None, Asked | None]:
    """Run the base, if anything needs it: the row that takes no probability, calibration, or the choice of a method.

    Args:
        pair: The models.
        options: What was asked for.
        texts: Name to text. What the user gave is read, otherwise Python's own text.
        progress: Called with (stage, done, total).

    Returns:
        The base, loaded, and what it says; None for both where nothing needs it.
    """
    probable = calibrates(options) or options.auto is not None
    if not probable and not silent_rows(pair.alignment.plan, pair.base_matrices):
        return None, None
    loaded, states = read_states(pair.base, pick_device(options.device), progress, texts if options.text else {})
    prior = None
    if options.text and probable:
        known = pair.donor.vocabulary
        counts = sum(counted_ids(known.encode, text.telling(progress), len(known)) for text in texts.values())
        prior = counted_prior(torch.as_tensor(counts), pair.alignment.plan.n_rows)
    return loaded, Asked(states, prior)


def calibrates(options: TransplantOptions) -> bool:
    """Whether rows are calibrated, unless a method is chosen."""
    if options.calibrate is not None:
        return options.calibrate
    return options.auto is None and options.reconstruction().needs == "donor"


def silent_rows(plan: RowPlan, base: VocabularyMatrices) -> int:
    """How many rows must be made to take no probability; none with a biased head, which its bias silences."""
    return len(plan.silenced) if base.bias is None else 0
