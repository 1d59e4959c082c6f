"""Attack transplants by hostile donors, and count what is found, and what honest tokens are taken for.

python -m benchmarks.experiments.trojan benchmarks/experiments/trojan.toml
"""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import models
from benchmarks.common.hostile import ATTACKS, Scene
from benchmarks.common.provenance import provenance
from tokensurgeon.alignment import Provenance
from tokensurgeon.baselines import make_method
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.evaluation.states import read_states
from tokensurgeon.surgery.pair import align_models
from tokensurgeon.transfer.diagnose import DEVIATIONS, LOUD, agreement, norm_deviations
from tokensurgeon.transfer.learnt import LearntRows
from tokensurgeon.transfer.outliers import SIGNS, Guarded, sound_anchors
from tokensurgeon.transfer.protocol import DonorSpace, Method, Pieces, Resources
from tokensurgeon.transfer.rows import atom_ids, drop_rowless
from tokensurgeon.transfer.silence import calibrating_shifts, common_direction
from tokensurgeon.transfer.states import HeadStates
from tokensurgeon.transfer.statistics import row_norms
from tokensurgeon.vocabulary.segmentation import base_pieces

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Setting:
    """A pair's matrices and a sample of its tokens.

    Attributes:
        base: (rows, dim).
        known: (n_anchors,) base ids.
        anchors: (n_anchors, donor dim).
        targets: (n, donor dim), sampled.
        pieces: Their texts in base tokens.
        norms: (n_donor,) of all of the donor's rows.
        rest: Pieces of each of some anchors' texts, as if they were no tokens; see `remedies`.
    """

    base: torch.Tensor
    known: torch.Tensor
    anchors: torch.Tensor
    targets: torch.Tensor
    pieces: Pieces
    norms: torch.Tensor
    rest: dict[int, list[int]]


def open_pair(pair: dict[str, Any], honest: int, seed: int) -> Setting:
    """Align, and sample tokens to reconstruct."""
    left, right, aligned, _ = align_models(*(str(getattr(models, pair[side])()) for side in ("base", "donor")))
    base, donor = (OpenModel.open(str(side.directory)).matrices() for side in (left, right))
    plan = drop_rowless(aligned, donor).plan
    atoms, new = atom_ids(plan, donor), plan.ids(Provenance.RECONSTRUCTED)
    sample = np.random.default_rng(seed).permutation(new)[:honest]
    texts = left.vocabulary.text_ids(len(base.embedding))
    rest = {i: cut for i, token in enumerate(plan.source[atoms].tolist()) if (cut := _cut(left, texts, token))}
    return Setting(
        base.embedding.float(),
        torch.from_numpy(plan.source[atoms]),
        donor.embedding[torch.from_numpy(atoms)].float(),
        donor.embedding[torch.from_numpy(sample)].float(),
        Pieces.of(base_pieces(left.vocabulary, right.vocabulary, sample.tolist(), len(base.embedding))),
        row_norms(donor.embedding),
        rest,
    )


def _cut(model: OpenModel, texts: dict[bytes, int], token: int) -> list[int]:
    """A token's text in the longest tokens that are not all of it; nothing where there are none."""
    key = model.vocabulary.keys[token]
    data, found = key.data if key is not None and key.is_text else b"", []
    whole = len(data)
    while data:
        size = next((n for n in range(min(len(data), whole - 1), 0, -1) if data[:n] in texts), 0)
        if not size:
            return []
        found.append(texts[data[:size]])
        data = data[size:]
    return found


def learn(
    setting: Setting, method: Method, targets: torch.Tensor, anchors: torch.Tensor, pieces: Pieces, sound: bool
) -> LearntRows:
    """What a method learns; ``sound`` leaves anchors of unusual length out."""
    kept = sound_anchors(row_norms(anchors)) if sound else torch.ones(len(anchors), dtype=torch.bool)
    space = DonorSpace(targets, anchors[kept], pieces)
    return LearntRows.of(method, setting.known[kept], space, None, Resources())


def guarded_rows(
    setting: Setting, learnt: LearntRows, pieces: Pieces, states: HeadStates | None = None
) -> tuple[torch.Tensor, Guarded]:
    """Rows after the guard, and what it found; by the base's states too, where they are given."""
    guard = Guarded(learnt, len(pieces), pieces, states)
    return torch.cat(list(guard.blocks(setting.base, "both"))), guard


def shares(guard: Guarded) -> dict[str, float]:
    """Of the tokens, by sign, and all together."""
    flagged = guard.times > 1
    by = {sign: float((flagged & (guard.signs == i)).double().mean()) for i, sign in enumerate(SIGNS)}
    return by | {"all": float(flagged.double().mean())}


def honest(setting: Setting, method: Method, states: HeadStates) -> dict[str, Any]:
    """How many tokens of an honest donor are outliers, and how near the others come to the limits."""
    learnt = learn(setting, method, setting.targets, setting.anchors, setting.pieces, sound=True)
    _, guard = guarded_rows(setting, learnt, setting.pieces)
    _, seen = guarded_rows(setting, learnt, setting.pieces, states)
    return {
        "tokens": len(setting.targets),
        "anchors_dropped": int(len(setting.anchors) - len(learnt.known)),
        "flagged": shares(guard),
        "flagged_by_states": shares(seen),
        "times": {f"p{p}": float(torch.quantile(guard.times, p / 100)) for p in (50, 99, 100)},
    }


def remedies(setting: Setting, method: Method, n: int, seed: int) -> dict[str, Any]:
    """Which remedy serves honest rows that are nearest to a limit best: known rows are held out, and made again."""
    order = torch.randperm(len(setting.anchors), generator=torch.Generator().manual_seed(seed))
    held = torch.tensor([i for i in order.tolist() if i in setting.rest][:n])
    kept = torch.ones(len(setting.anchors), dtype=torch.bool)
    kept[held] = False
    space = DonorSpace(setting.anchors[held], setting.anchors[kept])
    learnt = LearntRows.of(method, setting.known[kept], space, None, Resources())
    rows = torch.cat(list(learnt.blocks(setting.base, "both")))
    _, guard = guarded_rows(setting, learnt, Pieces.of([[]] * len(held)))
    guard.times.clamp_(max=1.0)
    worst = guard.times.topk(n // 50).indices
    truth = setting.base[setting.known[held]][worst]
    usual = setting.base.norm(dim=1).median()
    pieces = [setting.rest[int(held[i])] for i in worst]
    of_pieces = torch.stack([setting.base[cut].mean(dim=0) for cut in pieces])
    mean = setting.base.mean(dim=0)
    sides = {
        "left as they are": rows[worst],
        "scaled to the usual length": torch.nn.functional.normalize(rows[worst], dim=1) * usual,
        "mean of the pieces": of_pieces,
        "mean row": mean.expand_as(truth),
    }
    spread = (truth - mean).square().sum()
    return {
        "tokens": len(worst),
        "unexplained": {name: float((made - truth).square().sum() / spread) for name, made in sides.items()},
    }


def attacked(setting: Setting, scene: Scene, method: Method, name: str, states: HeadStates) -> dict[str, Any]:
    """One attack: what is found, and the attacked tokens' probability before and after."""
    rows, anchors = ATTACKS[name](scene)
    n = len(rows)
    pieces = setting.pieces[:n]
    before = torch.cat(list(learn(setting, method, rows, anchors, pieces, sound=False).blocks(setting.base, "both")))
    learnt = learn(setting, method, rows, anchors, pieces, sound=True)
    dropped = ~sound_anchors(row_norms(anchors))
    touched = (anchors != setting.anchors).any(dim=1)
    unseen, guard = guarded_rows(setting, learnt, pieces)
    after, seen = guarded_rows(setting, learnt, pieces, states)
    known = setting.base[learnt.known]
    shift = calibrating_shifts(states, known, anchors[~dropped], after, rows)
    shift[seen.times > 1] = 0  # what was replaced is not calibrated
    calibrated = after + shift[:, None] * common_direction(states.states)
    every = torch.arange(n)
    near, far = agreement(before, every, setting.base, pieces)

    def loud(some: torch.Tensor) -> float:
        return float((states.mean_probability(some) > LOUD).double().mean())

    return {
        "length": float(before.norm(dim=1).median() / setting.base.norm(dim=1).median()),
        "anchors": {"touched": int(touched.sum()), "dropped": int((dropped & touched).sum()),
                    "honest_dropped": int((dropped & ~touched).sum())},
        "caught": {"without_forward": shares(guard), "with_states": shares(seen)},
        "donor_norm": float((norm_deviations(row_norms(rows), setting.norms) > DEVIATIONS).double().mean()),
        "pieces": float((near <= far).double().mean()),
        "probability": {
            "before": float(states.mean_probability(before).mean()),
            "without_forward": float(states.mean_probability(unseen).mean()),
            "with_states": float(states.mean_probability(after).mean()),
            "calibrated": float(states.mean_probability(calibrated).mean()),
            "highest_known": float(states.mean_probability(known).max()),
        },
        "loud": {"before": loud(before), "with_states": loud(after), "calibrated": loud(calibrated)},
    }  # fmt: skip


@cache
def read(name: str, n: int) -> HeadStates:
    """Some of a model's final states on text, spread over it."""
    loaded, states = read_states(OpenModel.open(str(getattr(models, name)())), torch.device("cpu"), None)
    del loaded
    step = max(1, len(states.log_normaliser) // n)
    return HeadStates(states.normalised[::step][:n].clone(), states.log_normaliser[::step][:n].clone())


def named(how: dict[str, Any]) -> tuple[str, Method]:
    """A method by its name and options, and a title for it."""
    options = {option: value for option, value in how.items() if option != "method"}
    return " ".join([how["method"], *(f"{o}={v}" for o, v in options.items())]), make_method(how["method"], options)


def one_pair(pair: dict[str, Any], experiment: dict[str, Any]) -> dict[str, Any]:
    """Honest tokens by every method, and all attacks."""
    seed, n = experiment["seed"], experiment["tokens"]
    setting = open_pair(pair, experiment["honest"], seed)
    states = read(pair["base"], experiment["states"])
    found: dict[str, Any] = {"title": pair["title"], "anchors": len(setting.anchors), "honest": {}, "attacks": {}}
    for how in experiment["unattacked"]:
        title, method = named(how)
        found["honest"][title] = honest(setting, method, states)
        print(pair["title"], title, found["honest"][title], flush=True)
    if not pair["attack"]:
        return found
    theirs = read(pair["donor"], experiment["states"])
    found["remedies"] = remedies(setting, make_method("omp", {"k": 64, "rest": "dropped"}), experiment["honest"], seed)
    print(found["remedies"], flush=True)
    for how in experiment["attacked"]:
        size = min(experiment["design"], how.get("k", experiment["design"]))
        scene = Scene(
            setting.base, setting.known, setting.anchors, states, theirs.states, n,
            size, experiment["penalty"], experiment["components"], seed,
        )  # fmt: skip
        title, method = named(how)
        for name in ATTACKS:
            of = attacked(setting, scene, method, name, states)
            found["attacks"].setdefault(title, {})[name] = of
            print(title, name, json.dumps(of), flush=True)
    return found


def main(path: Path) -> None:
    """Run the experiment file and write its result."""
    experiment = tomllib.loads(path.read_text())
    begun = provenance(path.stem)
    result: dict[str, Any] = begun | {"settings": experiment, "pairs": {}}
    for name, pair in experiment["pairs"].items():
        result["pairs"][name] = one_pair(pair, experiment)
        (RESULTS / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
