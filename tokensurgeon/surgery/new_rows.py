"""The rows of one transplant and what is known about them: everything between reading and writing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tokensurgeon.alignment import Alignment, Provenance
from tokensurgeon.baselines import fasttext_units, goes_by_donor
from tokensurgeon.baselines.auto import Auto
from tokensurgeon.baselines.fasttext import fasttext_space
from tokensurgeon.baselines.subtoken import Subtoken
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.evaluation.loading import pick_device
from tokensurgeon.evaluation.states import quiet_row, read_states
from tokensurgeon.progress import Progress
from tokensurgeon.solver.distributed import own_device, rank
from tokensurgeon.surgery.auto import Choice, choose
from tokensurgeon.surgery.options import TransplantOptions
from tokensurgeon.transfer.calibrate import calibrate, counted_prior
from tokensurgeon.transfer.diagnose import control_tokens, doubtful_tokens, reconstructions, row_norms
from tokensurgeon.transfer.heldout import HeldOutScore, score_held_out
from tokensurgeon.transfer.protocol import Auxiliary, Method, Resources
from tokensurgeon.transfer.rows import NewRows, VocabularyMatrices, atom_ids, build_rows, drop_rowless
from tokensurgeon.vocabulary.segmentation import base_pieces

__all__ = ["Pair", "Rebuilt", "rebuild"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Both models with their vocabulary-sized tensors, aligned."""

    base: OpenModel
    donor: OpenModel
    base_matrices: VocabularyMatrices
    donor_matrices: VocabularyMatrices
    plan: Alignment


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """New rows and what the report says about them.

    Attributes:
        rows: The output's vocabulary-sized tensors.
        plan: The alignment, without donor tokens that have no row.
        held_out: How well known rows are predicted; None where that cannot be asked.
        details: See `tokensurgeon.transfer.diagnose`; empty on ranks that do not write.
        method: What made the rows.
        calibrated: Whether they were calibrated.
        choice: Why this method, if it was to be chosen.
    """

    rows: NewRows
    plan: Alignment
    held_out: HeldOutScore | None
    details: dict[str, Any]
    method: Method
    calibrated: bool
    choice: Choice | None


def rebuild(
    pair: Pair,
    options: TransplantOptions,
    method: Method,
    texts: Mapping[str, str],
    progress: Progress | None,
    *,
    run: bool = True,
) -> Rebuilt:
    """Make the rows. All ranks must call this; only the first one asks the base's body.

    Args:
        pair: What to join.
        options: The method's surroundings.
        method: As ``options`` name it.
        texts: Name to text, for methods that learn from text, and to choose a method by.
        progress: Called with (stage, done, total).
        run: Whether the base may be run. Otherwise the row that takes no probability is estimated from the head.
    """
    base, donor, plan = pair.base_matrices, pair.donor_matrices, pair.plan
    if goes_by_donor(method):
        plan = drop_rowless(plan, donor)
    device, writes = own_device(pick_device(options.device)), rank() == 0
    resources = Resources(device, options.exact, options.memory_bytes, options.seed)
    dead = plan.ids(Provenance.UNREACHABLE, Provenance.PADDING)
    silence = len(dead) > 0 and base.bias is None  # a biased head is silenced by its bias
    calibrated = run and goes_by_donor(method) if options.calibrate is None else options.calibrate
    states = loaded = choice = None
    given = texts if options.text else {}  # without the user's there is Python's own text
    if run and writes and (calibrated or silence or isinstance(method, Auto)):
        loaded, states = read_states(pair.base, device, progress, given)
    prior = None
    if options.text and states is not None and (calibrated or isinstance(method, Auto)):
        encoded = [i for text in texts.values() for i in pair.donor.vocabulary.encode(text)]
        prior = counted_prior(encoded, plan.n_rows)
    if isinstance(method, Auto) and loaded is not None and states is not None:
        choice = choose(
            method, base, donor, plan, pair.donor.vocabulary, loaded, states, prior, given, options, resources, progress
        )  # fmt: skip
        chosen = choice.applied(options)
        method, calibrated = chosen.reconstruction(), choice.best.calibrated
    del loaded
    quiet = quiet_row(pair.base, base, len(dead), states) if silence and writes else None
    by_text = isinstance(method, Subtoken)
    pieces = None
    if by_text or writes:
        new = plan.ids(Provenance.RECONSTRUCTED).tolist()
        pieces = base_pieces(pair.base.vocabulary, pair.donor.vocabulary, new, len(base.embedding))
    auxiliary = None
    if units := fasttext_units(method):
        auxiliary = fasttext_space(
            units,
            list(texts.values()),
            pair.base.vocabulary,
            pair.donor.vocabulary,
            plan,
            base_rows=len(base.embedding),
            seed=options.seed,
        )
    rows = build_rows(
        base,
        donor,
        plan,
        method=method,
        pieces=pieces if by_text else None,
        auxiliary=auxiliary,
        untie=options.untie,
        suppressing=quiet,
        resources=resources,
        progress=progress,
    )
    calibrated = calibrated and states is not None and bool((plan.provenance == Provenance.RECONSTRUCTED).any())
    if calibrated and states is not None:
        calibrate(rows.matrices, base, donor, plan, states.states, states.log_normaliser, prior)
    held_out = None
    if not by_text:  # an anchor's text is the anchor
        atoms = torch.from_numpy(atom_ids(plan, donor))
        known = torch.from_numpy(plan.source)[atoms]
        held_out = score_held_out(donor.embedding[atoms], known, base.embedding, method, resources, auxiliary=auxiliary)
    details: dict[str, Any] = {}
    if writes and pieces is not None:
        left, right = pair.base.vocabulary, pair.donor.vocabulary
        details = {
            "reconstructions": reconstructions(left, right, plan, rows, _norms(donor, plan, auxiliary)),
            "control_tokens": control_tokens(left, right, plan),
            "doubtful": doubtful_tokens(right, plan, rows, base, donor, pieces, states),
        }
    return Rebuilt(rows, plan, held_out, details, method, calibrated, choice)


def _norms(donor: VocabularyMatrices, plan: Alignment, auxiliary: Auxiliary | None) -> dict[str, torch.Tensor]:
    """Norms of the targets in the space in which each tensor's were compared."""
    ids = torch.from_numpy(plan.ids(Provenance.RECONSTRUCTED))
    if auxiliary is not None:
        return {"embedding": torch.linalg.vector_norm(auxiliary.targets, dim=1)}
    matrices = {"embedding": donor.embedding, "head": donor.head}
    return {n: row_norms(m)[ids] for n, m in matrices.items() if m is not None}
