"""Pick the method of a transplant, and make its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tokensurgeon.alignment import Provenance, RowPlan
from tokensurgeon.alignment.summary import control_tokens
from tokensurgeon.baselines.fasttext import UNITS, fasttext_space
from tokensurgeon.evaluation.loading import LoadedModel, pick_device
from tokensurgeon.evaluation.states import quiet_row
from tokensurgeon.evaluation.texts import Text
from tokensurgeon.progress import Clock, Progress, Stage
from tokensurgeon.solver.distributed import own_device, rank
from tokensurgeon.surgery.auto import Choice, choose
from tokensurgeon.surgery.body import Asked, calibrates, silent_rows
from tokensurgeon.surgery.options import TransplantOptions
from tokensurgeon.surgery.pair import Pair
from tokensurgeon.transfer.calibrate import calibrate
from tokensurgeon.transfer.diagnose import doubtful_tokens, reconstructions
from tokensurgeon.transfer.heldout import HeldOutScore, score_held_out
from tokensurgeon.transfer.protocol import Auxiliary, Method
from tokensurgeon.transfer.rows import NewRows, VocabularyMatrices, atom_ids, build_rows
from tokensurgeon.transfer.states import HeadStates
from tokensurgeon.transfer.statistics import row_norms
from tokensurgeon.vocabulary.segmentation import base_pieces

__all__ = ["MadeRows", "PickedMethod", "make_rows", "pick_method"]


@dataclass(frozen=True, slots=True)
class PickedMethod:
    """What makes the rows.

    Attributes:
        method: The method.
        calibrated: Whether its rows are calibrated, where the base's states are known.
        choice: Why this method, if it was to be chosen.
    """

    method: Method
    calibrated: bool
    choice: Choice | None = None


@dataclass(frozen=True, slots=True)
class MadeRows:
    """New rows and what the report says about them.

    Attributes:
        rows: The output's vocabulary-sized tensors.
        held_out: How well known rows are predicted; None where that cannot be asked.
        details: See `tokensurgeon.transfer.diagnose`; empty on ranks that do not write.
        calibrated: Whether rows were calibrated.
    """

    rows: NewRows
    held_out: HeldOutScore | None
    details: dict[str, Any]
    calibrated: bool


def pick_method(
    pair: Pair,
    loaded: LoadedModel | None,
    asked: Asked | None,
    options: TransplantOptions,
    texts: Mapping[str, Text],
    progress: Progress | None,
) -> PickedMethod:
    """The method that was asked for; for ``auto``, the one that loses least on text.

    Args:
        pair: The models.
        loaded: The base; where a method is chosen, its vocabulary is replaced and it is of no use afterwards.
        asked: What it says.
        options: What was asked for.
        texts: To choose by.
        progress: Called with (stage, done, total).

    Raises:
        InputError: If the text says too little to choose by.
    """
    if options.auto is None or loaded is None or asked is None:
        return PickedMethod(options.reconstruction(), calibrates(options))
    choice = choose(pair, loaded, asked, options.auto, options, texts if options.text else {}, progress)
    return PickedMethod(choice.method(), choice.best.calibrated, choice)


def make_rows(
    pair: Pair,
    picked: PickedMethod,
    asked: Asked | None,
    options: TransplantOptions,
    texts: Mapping[str, Text],
    progress: Progress | None,
    clock: Clock,
) -> MadeRows:
    """Build the rows, calibrate them, and see how well known ones are predicted. All ranks must call this.

    Args:
        pair: The models.
        picked: What makes the rows.
        asked: What the base says; None where it is not run, and the row that takes no probability is estimated from
            the head.
        options: What was asked for.
        texts: Name to text, for fastText vectors.
        progress: Called with (stage, done, total).
        clock: Measures the parts of it.
    """
    method, writes = picked.method, rank() == 0
    states = asked.states if asked is not None else None
    base, donor, plan = pair.base_matrices, pair.donor_matrices, pair.alignment.plan
    resources = options.resources(own_device(pick_device(options.device)))
    n_silent = silent_rows(plan, base)
    quiet = quiet_row(pair.base, base, n_silent, states) if writes and n_silent else None
    pieces = None
    if method.needs == "text" or writes:
        new = plan.ids(Provenance.RECONSTRUCTED).tolist()
        with clock("cutting new tokens as the base does"):
            pieces = base_pieces(pair.base.vocabulary, pair.donor.vocabulary, new, len(base.embedding))
    auxiliary = None
    if method.needs == "fasttext":
        left, right, rows = pair.base.vocabulary, pair.donor.vocabulary, len(base.embedding)
        given = [text.telling(progress, Stage.VECTORS) for text in texts.values()]
        auxiliary = fasttext_space(UNITS[method.name], given, left, right, plan, base_rows=rows, seed=options.seed)
    with clock("making rows"):
        made = build_rows(
            base,
            donor,
            pair.alignment,
            method=method,
            pieces=pieces,
            auxiliary=auxiliary,
            untie=options.untie,
            suppressing=quiet,
            states=states,
            resources=resources,
            progress=progress,
        )
    calibrated = False
    if picked.calibrated and asked is not None and len(plan.ids(Provenance.RECONSTRUCTED)):
        replaced = {outlier.id for outlier in made.outliers}
        with clock("calibrating"):
            calibrate(made.matrices, base, donor, plan, asked.states, asked.prior, replaced)
        calibrated = True
    held_out = None
    if method.needs != "text" and len(plan.ids(Provenance.RECONSTRUCTED)):  # an anchor's text is the anchor
        atoms = torch.from_numpy(atom_ids(plan, donor))
        known, space = torch.from_numpy(plan.source)[atoms], donor.embedding[atoms]
        with clock("holding anchors out"):
            held_out = score_held_out(space, known, base.embedding, method, resources, auxiliary=auxiliary)
    with clock("describing tokens"):
        details = _details(pair, made, auxiliary, pieces, states) if writes and pieces is not None else {}
    return MadeRows(made, held_out, details, calibrated)


def _details(
    pair: Pair,
    made: NewRows,
    auxiliary: Auxiliary | None,
    pieces: list[list[int]],
    states: HeadStates | None,
) -> dict[str, Any]:
    left, right, plan = pair.base.vocabulary, pair.donor.vocabulary, pair.alignment.plan
    base, donor = pair.base_matrices, pair.donor_matrices
    return {
        "reconstructions": reconstructions(left, right, plan, made, _norms(donor, plan, auxiliary)),
        "control_tokens": control_tokens(left, right, pair.alignment),
        "doubtful": doubtful_tokens(right, plan, made, base, donor, pieces, states),
    }


def _norms(donor: VocabularyMatrices, plan: RowPlan, auxiliary: Auxiliary | None) -> dict[str, torch.Tensor]:
    """Norms of the targets in the space in which each tensor's were compared."""
    ids = torch.from_numpy(plan.ids(Provenance.RECONSTRUCTED))
    if auxiliary is not None:
        return {"embedding": torch.linalg.vector_norm(auxiliary.targets, dim=1)}
    matrices = {"embedding": donor.embedding, "head": donor.head}
    return {n: row_norms(m)[ids] for n, m in matrices.items() if m is not None}
