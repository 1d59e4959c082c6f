"""Choose a method: candidates are tried on text, and the one that loses least is kept.

Text seldom holds many tokens that the base lacks. So some of the anchors in it are held out as well, and reconstructed
as if they were new; the base's body reads the text with all these rows, and what is compared is bits per byte. New
tokens that the text does not hold take probability too: a sample of them is reconstructed, and counts for all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from tokensurgeon.alignment import Alignment, Ids, Provenance, RowPlan
from tokensurgeon.baselines import make_method
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.context import inputs_of
from tokensurgeon.evaluation.loading import LoadedModel, pick_device
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.start import standing_for_start
from tokensurgeon.evaluation.texts import Text, python_text, split_bytes
from tokensurgeon.progress import Progress, Stage
from tokensurgeon.surgery.body import Asked
from tokensurgeon.surgery.options import Auto, TransplantOptions
from tokensurgeon.surgery.pair import Pair
from tokensurgeon.transfer.calibrate import calibrate
from tokensurgeon.transfer.omp import Omp
from tokensurgeon.transfer.protocol import Method
from tokensurgeon.transfer.rows import NewRows, VocabularyMatrices, atom_ids, build_rows
from tokensurgeon.vocabulary.segmentation import base_pieces

__all__ = ["CANDIDATES", "Choice", "Trial", "choose", "replace_vocabulary"]

CANDIDATES: tuple[tuple[str, dict[str, int]], ...] = (("ridge", {}), ("omp", {"k": 8}), ("focus", {}))
"""Ridge before omp, whose map it is: what learning that takes is known then."""
_BYTES = 24_576
_SAMPLE = 1024
_HELD_OUT = 0.1
_FEWEST = 64
_LEAST = 1024
"""Bytes of text below which nothing is chosen."""
_PART = 1  # of Python's text; calibration reads part 0


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate.

    Attributes:
        method: Its name.
        options: Its options.
        calibrated: Whether its rows were calibrated.
        bits_per_byte: Of the text, with some rows held out; None if it was left out.
        minutes: That its rows would take, as far as the sample tells.
        note: Why it was left out, or nothing.
    """

    method: str
    options: Mapping[str, int]
    calibrated: bool
    bits_per_byte: float | None
    minutes: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and what from.

    Attributes:
        trials: All, best first, those left out last.
        held_out: Anchors that were reconstructed as if they were new.
        new: New tokens in the text.
        n_bytes: Text scored.
    """

    trials: tuple[Trial, ...]
    held_out: int
    new: int
    n_bytes: int

    @property
    def best(self) -> Trial:
        """The trial with the fewest bits per byte."""
        return self.trials[0]

    def method(self) -> Method:
        """The best trial's."""
        return make_method(self.best.method, self.best.options)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        return {"best": asdict(self.best)} | asdict(self)


@dataclass(frozen=True, slots=True)
class _Smaller:
    """A problem with fewer rows: the alignment, the log of how many tokens each row counts for, what was held out."""

    alignment: Alignment
    log_weights: torch.Tensor
    held_out: int
    new: int


@dataclass(frozen=True, slots=True)
class _Alive:
    """A smaller problem's rows that take probability, or begin a text, and no others: most of a vocabulary is not read.

    Attributes:
        alignment: Of these rows.
        log_weights: Theirs.
        donor: Theirs; the last of them may be beyond it.
        ids: (n,) theirs in the whole.
        prior: Theirs, see `tokensurgeon.surgery.body.Asked`.
        places: (n_rows of the output,) where each row is among these; -1 for the others.
    """

    alignment: Alignment
    log_weights: torch.Tensor
    donor: VocabularyMatrices
    ids: Ids
    prior: torch.Tensor | None
    places: Ids

    @classmethod
    def of(cls, small: _Smaller, donor: VocabularyMatrices, prior: torch.Tensor | None, prefix: int | None) -> _Alive:
        """Leave the others out."""
        kept = np.isfinite(small.log_weights.numpy())
        kept[[] if prefix is None else [prefix]] = True
        ids = np.flatnonzero(kept)
        places: Ids = np.where(kept, kept.cumsum() - 1, -1)
        old, rows = small.alignment, torch.from_numpy(ids)
        given = rows[rows < len(donor.embedding)]
        return cls(
            alignment=Alignment(
                plan=RowPlan(old.plan.provenance[ids], old.plan.source[ids]),
                overrides={int(places[i]): text for i, text in old.overrides.items() if kept[i]},
                roles={int(places[i]): blend for i, blend in old.roles.items() if kept[i]},
            ),
            log_weights=small.log_weights[rows],
            donor=VocabularyMatrices(donor.embedding[given], None if donor.head is None else donor.head[given]),
            ids=ids,
            prior=None if prior is None else prior[rows],
            places=places,
        )


def choose(
    pair: Pair,
    loaded: LoadedModel,
    asked: Asked,
    auto: Auto,
    options: TransplantOptions,
    texts: Mapping[str, Text],
    progress: Progress | None = None,
) -> Choice:
    """Try `CANDIDATES`, calibrated unless ``options.calibrate`` forbids it.

    Args:
        pair: The models; every reconstructed token has a donor row.
        loaded: The base. Its vocabulary is replaced: it is of no use afterwards.
        asked: What the base says on text other than what is scored here.
        auto: How long the chosen method may take.
        options: Of the transplant.
        texts: The user's text by name; nothing for Python's own.
        progress: Called with (stage, done, total).

    Raises:
        InputError: If the text says too little, or no candidate fits into the time.
    """
    base, donor, tokenizer = pair.base_matrices, pair.donor_matrices, pair.donor.vocabulary
    resources = options.resources(pick_device(options.device))
    context = loaded.context  # cut here too: what has a row is known by the ids of what is scored
    whole = _pieces(texts)
    pieces = [part for text in whole for part, _ in inputs_of(tokenizer.encode, loaded.prefix, text, context)]
    scored = sum(len(piece.encode()) for piece in pieces)
    if scored < _LEAST:
        raise InputError(
            f"method auto chooses by text, and {scored} bytes are less than the {_LEAST:,} that it takes. "
            "Give a longer --text, or none for Python's own documentation"
        )
    encoded = {piece: tokenizer.encode(piece) for piece in pieces}
    small = _smaller(pair.alignment, donor, {i for ids in encoded.values() for i in ids}, options.seed)
    standing = standing_for_start(small.alignment.plan, loaded.prefix, None)
    prefix = pair.alignment.beginning if standing is None else standing
    # what has no row here, such as control tokens of the user's own mapping, is left out of the text for everybody
    known = np.isfinite(small.log_weights.numpy())
    alive = _Alive.of(small, donor, asked.prior, prefix)
    encoded = {piece: [int(alive.places[i]) for i in ids if known[i]] for piece, ids in encoded.items()}
    begins = None if prefix is None else int(alive.places[prefix])
    plan = alive.alignment.plan
    anchors, trials = len(atom_ids(plan, alive.donor)), []
    targets = alive.ids[plan.ids(Provenance.RECONSTRUCTED)]
    cut = _pieces_of(pair, targets)
    new = pair.alignment.plan.ids(Provenance.RECONSTRUCTED)

    def made_by(method: Method) -> tuple[NewRows, float]:
        started = time.perf_counter()
        made = build_rows(
            base,
            alive.donor,
            alive.alignment,
            method=method,
            pieces=cut,
            untie=options.untie,
            states=asked.states,
            resources=resources,
        )
        return made, (time.perf_counter() - started) / 60

    fixed = made_by(make_method("zero"))[1]  # whatever the method
    calibrated = options.calibrate is not False
    for done, (name, given) in enumerate(CANDIDATES):
        if progress is not None:
            progress(Stage.TRIALS, done, len(CANDIDATES))
        if given.get("k", 1) > anchors:
            trials.append(Trial(name, given, False, None, 0.0, f"k exceeds the {anchors} anchors"))
            continue
        method = make_method(name, given)
        tried = method.of_some(targets, new) if isinstance(method, Omp) else method
        made, minutes = made_by(tried)
        if name == "ridge":
            fixed = max(fixed, minutes)  # omp learns the same map
        if isinstance(method, Omp) and isinstance(tried, Omp):  # others' work is in the anchors, which are all there
            more = method.combined(len(new)) / max(1, tried.combined(len(targets)))
            minutes = fixed + max(0.0, minutes - fixed) * more
        if minutes > auto.minutes:
            trials.append(Trial(name, given, False, None, minutes, f"would take more than {auto.minutes:g} minutes"))
            continue
        if calibrated:
            calibrate(made.matrices, base, alive.donor, plan, asked.states, alive.prior)
        replace_vocabulary(loaded.model, made.matrices)
        score = score_text(loaded.model, encoded.__getitem__, begins, pieces, log_weights=alive.log_weights)
        bits = score.bits_per_byte
        finite = math.isfinite(bits)
        trials.append(Trial(name, given, calibrated, bits if finite else None, minutes, "" if finite else "not finite"))
    trials.sort(key=lambda trial: math.inf if trial.bits_per_byte is None else trial.bits_per_byte)
    if trials[0].bits_per_byte is None:
        raise InputError(
            f"method auto: no candidate gives finite scores in less than {auto.minutes:g} minutes. "
            "Give --method-option minutes=N with a larger N, or choose a method"
        )
    return Choice(tuple(trials), small.held_out, small.new, scored)


def _pieces(texts: Mapping[str, Text]) -> list[str]:
    """Some of each text."""
    if not texts:
        return split_bytes(python_text(_BYTES, _PART))
    share = max(1, _BYTES // len(texts))
    heads = [text.beginning(share).encode()[:share].decode("utf-8", "ignore") for text in texts.values()]
    return [piece for head in heads for piece in split_bytes(head)]


def _pieces_of(pair: Pair, ids: Ids) -> list[list[int]]:
    """Tokens in the base's own; none of those that are held out, which would be themselves."""
    new = pair.alignment.plan.provenance[ids] == Provenance.RECONSTRUCTED
    cut = iter(base_pieces(pair.base.vocabulary, pair.donor.vocabulary, ids[new].tolist(), pair.base.layout.rows))
    return [next(cut) if is_new else [] for is_new in new.tolist()]


def _smaller(alignment: Alignment, donor: VocabularyMatrices, seen: set[int], seed: int) -> _Smaller:
    """New tokens in the text and a sample of the others; a tenth of the text's anchors are new there too."""
    plan, random = alignment.plan, np.random.default_rng(seed)
    copied = plan.ids(Provenance.COPIED)
    usable = copied[copied < len(donor.embedding)]
    common = np.intersect1d(usable, np.array(sorted(seen), dtype=np.int64))
    n_held = min(max(_FEWEST, int(_HELD_OUT * len(common))), len(common) // 2, len(usable) // 4)
    held = random.permutation(common)[:n_held]
    targets = plan.ids(Provenance.RECONSTRUCTED)
    new = targets[np.isin(targets, list(seen))]
    rest = np.setdiff1d(targets, new)
    sample = np.sort(random.permutation(rest)[:_SAMPLE])
    fewer = plan.changed(Provenance.PADDING, np.setdiff1d(rest, sample)).changed(Provenance.RECONSTRUCTED, held)
    log_weights = torch.zeros(plan.n_rows)
    log_weights[torch.from_numpy(fewer.ids(Provenance.PADDING, Provenance.UNREACHABLE))] = -math.inf
    if len(sample):
        log_weights[torch.from_numpy(sample)] = math.log(len(rest) / len(sample))
    return _Smaller(replace(alignment, plan=fewer), log_weights, len(held), len(new))


def replace_vocabulary(model: Any, matrices: VocabularyMatrices) -> None:
    """Give a loaded model other vocabulary-sized tensors, in place; without a head, input and output share one."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    own = inputs.weight

    def weight(rows: torch.Tensor) -> torch.nn.Parameter:
        return torch.nn.Parameter(rows.to(own.device, own.dtype), requires_grad=False)

    inputs.weight, inputs.padding_idx = weight(matrices.embedding), None  # an id of the old vocabulary
    outputs.weight = inputs.weight if matrices.head is None else weight(matrices.head)
    if matrices.bias is not None:
        outputs.bias = weight(matrices.bias)
