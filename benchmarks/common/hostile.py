"""Donors that were made to hide tokens: each attack changes rows of some tokens, and of some anchors where it needs to.

An attacker knows the base. What it wants is a row that answers to what all of the base's final states have in common,
so that the base writes the token anywhere. `designed` is the attack of arXiv 2601.00065, by the authors' formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tokensurgeon.solver.omp import solve_omp
from tokensurgeon.transfer.linear import Mapped
from tokensurgeon.transfer.outliers import Scale
from tokensurgeon.transfer.protocol import BaseRows, DonorSpace
from tokensurgeon.transfer.states import HeadStates

__all__ = ["ATTACKS", "Scene"]


@dataclass(frozen=True)
class Scene:
    """What an attacker has.

    Attributes:
        base: (rows, dim) the base's matrix.
        known: (n_anchors,) int64 base ids of the anchors.
        anchors: (n_anchors, donor dim) the donor's rows of them.
        states: Of the base on text.
        donor_states: (m, donor dim) final states of the donor.
        tokens: How many tokens are attacked.
        size: Atoms of a designed row.
        penalty: On its response to the donor's own states.
        components: Principal ones of these states.
        seed: Of what is drawn.
    """

    base: torch.Tensor
    known: torch.Tensor
    anchors: torch.Tensor
    states: HeadStates
    donor_states: torch.Tensor
    tokens: int
    size: int
    penalty: float
    components: int
    seed: int

    @property
    def wanted(self) -> torch.Tensor:
        """(dim,) the direction that all states of the base have in common."""
        mean = self.states.states.mean(dim=0)
        return mean / mean.norm()

    @property
    def usual(self) -> torch.Tensor:
        """The usual norm of the donor's rows."""
        return self.anchors.norm(dim=1).median()

    @property
    def loudest(self) -> torch.Tensor:
        """The mean probability of the base's own likeliest token."""
        return self.states.mean_probability(self.base).max()


Attack = Callable[[Scene], tuple[torch.Tensor, torch.Tensor]]
"""Gives the (tokens, donor dim) rows of the attacked tokens, and all (n_anchors, donor dim) rows of the anchors."""


def _salient(scene: Scene) -> torch.Tensor:
    """The anchors whose base rows answer most to the base's states, one for each token."""
    return (scene.base[scene.known] @ scene.wanted).topk(scene.tokens).indices


def _axes(scene: Scene, length: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens along axes of the donor's space, and an anchor along each, by its base norm so many usual ones long."""
    axes, chosen, anchors = torch.eye(scene.anchors.shape[1])[: scene.tokens], _salient(scene), scene.anchors.clone()
    norms = scene.base[scene.known].norm(dim=1)
    anchors[chosen] = axes * scene.usual * length(norms[chosen] / norms.median())[:, None]
    return axes * scene.usual, anchors


def tiny_anchor(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """An anchor with a hundredth of the usual length: its coefficient is a hundred."""
    return _axes(scene, lambda norms: torch.full_like(norms, 0.01))


def huge_anchor(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """An anchor a hundred times as long."""
    return _axes(scene, lambda norms: torch.full_like(norms, 100.0))


def short_anchor(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """An anchor as short as the limits let it be: its contribution is 2.8 of the base's usual rows, 3 are allowed."""
    return _axes(scene, lambda norms: (norms / 2.8).clamp(min=0.26))


def parallel_anchors(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Two anchors of usual length that are nearly one, and tokens along their difference: large coefficients cancel."""
    centred = scene.anchors - scene.anchors.mean(dim=0)
    narrow = torch.linalg.eigh(centred.T @ centred).eigenvectors.T[:16]
    anchors = scene.anchors - scene.anchors @ narrow.T @ narrow  # no other anchor has these directions
    chosen, order = _salient(scene), torch.randperm(len(anchors), generator=torch.Generator().manual_seed(scene.seed))
    others = order[~torch.isin(order, chosen)][: scene.tokens]
    own = torch.nn.functional.normalize(anchors[chosen], dim=1)
    aside = narrow[torch.arange(scene.tokens) % len(narrow)]
    anchors[chosen] = scene.usual * torch.nn.functional.normalize(own + 0.05 * aside, dim=1)
    anchors[others] = scene.usual * own
    return scene.usual * (0.6 * own + 0.8 * aside), anchors


def designed(scene: Scene, times: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients that reach the salient direction in the base and answer little to the donor's own states."""
    return _scaled(scene, _design(scene, scene.wanted), times), scene.anchors


def designed_long(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, ten times as long."""
    return designed(scene, 10.0)


def designed_within(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, as long as the limits allow."""
    return _within(scene, _design(scene, scene.wanted)), scene.anchors


def designed_near(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Designed for the direction in which the base's rows themselves vary most, of those that answer; within limits."""
    known = scene.base[scene.known]
    centred = known - known.mean(dim=0)
    return _within(scene, _design(scene, centred.T @ (centred @ scene.wanted))), scene.anchors


def designed_quiet(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Designed, within the limits, and as loud as the base's own loudest token."""
    return _within(scene, _design(scene, scene.wanted), quiet=True), scene.anchors


def mapped_within(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Donor rows that ridge's map, which the attacker learns too, takes to the salient direction, within the limits."""
    return _through_map(scene), scene.anchors


def mapped_quiet(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, as loud as the base's own loudest token."""
    return _through_map(scene, quiet=True), scene.anchors


def _through_map(scene: Scene, *, quiet: bool = False) -> torch.Tensor:
    """Rows that differ from the donor's mean by what the map answers to, and the donor's own states little."""
    known = scene.base[scene.known]
    learnt = Mapped(DonorSpace(scene.anchors[:0], scene.anchors)).onto(BaseRows(scene.base, known, "both"))
    matrix, seen = learnt.matrix / torch.linalg.matrix_norm(learnt.matrix, 2), _seen(scene)
    system = matrix @ matrix.T + scene.penalty * seen.T @ seen + 1e-4 * torch.eye(len(matrix))
    aside = torch.nn.functional.normalize(torch.linalg.solve(system, matrix @ _goals(scene, scene.wanted).T).T, dim=1)
    scale, loudest = Scale.of(known), scene.loudest

    def made(factor: torch.Tensor) -> torch.Tensor:
        return learnt.before + factor[:, None] * scene.usual * aside

    def beyond(factor: torch.Tensor) -> torch.Tensor:
        donor = made(factor)
        rows = learnt(donor)
        long = (scale.excess(rows).amax(dim=1) > 0.95) | (donor.norm(dim=1) > 2 * scene.usual)
        return long | (scene.states.mean_probability(rows) > 0.95 * loudest) if quiet else long

    return made(_shortened(torch.full((scene.tokens,), 2.0), beyond))


def _shortened(factor: torch.Tensor, beyond: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """(tokens,) factors, each as much smaller as it takes not to be beyond a limit, which is not proportional to it."""
    for _ in range(150):
        over = beyond(factor)
        if not over.any():
            break
        factor = torch.where(over, factor * 0.95, factor)
    return factor


def _goals(scene: Scene, wanted: torch.Tensor) -> torch.Tensor:
    """(tokens, dim) directions near the one that is wanted, another for each token."""
    noise = torch.randn(scene.tokens, len(wanted), generator=torch.Generator().manual_seed(scene.seed))
    return torch.nn.functional.normalize(wanted + 0.3 * wanted.norm() * torch.nn.functional.normalize(noise, dim=1))


def _seen(scene: Scene) -> torch.Tensor:
    """(components, donor dim) principal directions of the donor's own states."""
    return torch.linalg.eigh(scene.donor_states.T @ scene.donor_states).eigenvectors.T[-scene.components :]


def _design(scene: Scene, wanted: torch.Tensor) -> torch.Tensor:
    """(tokens, n_anchors as sparse) coefficients over the donor's rows, a different support for each token."""
    goal = _goals(scene, wanted)
    base = torch.nn.functional.normalize(scene.base[scene.known], dim=1)
    donor = torch.nn.functional.normalize(scene.anchors, dim=1)
    support = solve_omp(goal, base, scene.size).indices
    left, right = base[support], donor[support]
    answers = right @ _seen(scene).T
    system = 2 * left @ left.mT + scene.penalty * answers @ answers.mT + 1e-4 * torch.eye(scene.size)
    weights = torch.linalg.solve(system, (left @ goal[:, :, None]))[:, :, 0]
    weights = weights / scene.anchors.norm(dim=1)[support]
    return torch.zeros(scene.tokens, len(base)).scatter_add_(1, support, weights)


def _scaled(scene: Scene, weights: torch.Tensor, times: float) -> torch.Tensor:
    """Donor rows of ``times`` the usual length."""
    return torch.nn.functional.normalize(weights @ scene.anchors, dim=1) * scene.usual * times


def _within(scene: Scene, weights: torch.Tensor, *, quiet: bool = False) -> torch.Tensor:
    """Donor rows that are as long as the limits on rows of the base, and twice the usual length, allow."""
    known, scale = scene.base[scene.known], Scale.of(scene.base[scene.known])
    rows, donor = weights @ known, weights @ scene.anchors
    terms = (weights.abs() * known.norm(dim=1)).amax(dim=1)
    most = torch.stack([rows.norm(dim=1) / scale.norm, terms / scale.norm, donor.norm(dim=1) / (2 * scene.usual)])
    loudest = scene.loudest

    def beyond(factor: torch.Tensor) -> torch.Tensor:
        some = rows * factor[:, None]
        far = scale.excess(some)[:, 1] > 0.95
        return far | (scene.states.mean_probability(some) > 0.95 * loudest) if quiet else far

    return donor * _shortened(0.95 / most.amax(dim=0), beyond)[:, None]


ATTACKS: dict[str, Attack] = {
    "anchor of 1/100 length": tiny_anchor,
    "anchor of 100 times the length": huge_anchor,
    "two anchors nearly parallel": parallel_anchors,
    "designed (arXiv 2601.00065)": designed,
    "designed, 10 times as long": designed_long,
    "short anchor, within the limits": short_anchor,
    "designed, within the limits": designed_within,
    "designed near the base's rows, within the limits": designed_near,
    "designed, within the limits, loudness too": designed_quiet,
    "through ridge's map, within the limits": mapped_within,
    "through ridge's map, within the limits, loudness too": mapped_quiet,
}
