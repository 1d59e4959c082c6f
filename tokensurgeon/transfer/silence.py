"""Shift the logits of single rows by what all states that enter an LM head have in common.

The states h of a trained language model share a large mean, so that
``u = (E[h hᵀ] + λI)⁻¹ E[h]`` has ``u·h ≈ 1`` for every h. Adding ``c·u`` to a row of the head
shifts that token's logit by c everywhere: a bias without a bias term, in any architecture.

* `suppressing_row`: the mean row of the head less ``c·u`` takes no probability. A zero row would: its logit is 0, which
  can beat every real token. So would ``-c·u`` alone: behind tokens that a model seldom reads, all of its logits may be
  low together (to -150 on Gemma-3-270M, one of ten tokens behind BOS), and their mean is what goes down with them.
  `estimated_suppressing_row` does it for a model that is not run: nearly everywhere, a model finds frequent tokens
  likelier than rare ones, so that the mean row of the former less that of the latter responds to all states alike.
* `calibrating_shifts`: the c that gives a reconstructed token the prior that its donor row suggests.
"""

from __future__ import annotations

import math

import torch

from tokensurgeon.transfer.products import coarse_product
from tokensurgeon.transfer.states import HeadStates

__all__ = ["calibrating_shifts", "common_direction", "estimated_suppressing_row", "suppressing_row"]

TARGET_MASS = 1e-12
"""Probability that all suppressed rows together may have, per state."""
_RIDGE = 1e-3
_ESTIMATED_STRENGTH = 20.0
_CHUNK = 4096
_LOWEST = -80.0
"""Sums of exponentials below that of this have lost digits in float32."""


def common_direction(states: torch.Tensor) -> torch.Tensor:
    """The vector whose product with every state is about 1.

    Args:
        states: (n_states, dim) inputs of the LM head on text that the base reads, float32.

    Returns:
        (dim,) float32.
    """
    states = states.double()
    moment = states.T @ states / len(states)
    moment.diagonal().add_(_RIDGE * moment.diagonal().mean())
    direction: torch.Tensor = torch.linalg.solve(moment, states.mean(dim=0))
    return direction.float()


def suppressing_row(states: HeadStates, n_rows: int, usual: torch.Tensor) -> torch.Tensor:
    """The row that gives ``n_rows`` copies of itself together less than `TARGET_MASS`.

    Args:
        states: What the LM head sees on text.
        n_rows: How many rows the output will have of it.
        usual: (dim,) float32, the mean of the head's rows of tokens that text can hold.

    Returns:
        (dim,) float32.
    """
    direction = common_direction(states.states)
    response, known = states.states @ direction, len(states.log_normaliser)
    above = states.log_normaliser - states.states[:known] @ usual  # the usual row's logit
    needed = torch.full_like(response, float(above.min()))  # the others' is hardly less
    needed[:known] = above
    needed = math.log(max(n_rows, 1) / TARGET_MASS) - needed
    # States to which the direction hardly responds would ask for an endless row; leave out the
    # lowest hundredth.
    floor = torch.quantile(response[:100_000], 0.01).clamp(min=0.1)
    strength = (needed / response.clamp(min=float(floor))).amax().clamp(min=0.0)
    return usual - strength * direction


def estimated_suppressing_row(head: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """A row that takes next to nothing, from the head alone.

    Vocabularies list frequent tokens first. On SmolLM2-135M the difference between the mean rows of the first and the
    last fiftieth responds with 4.4 (least: 0.8) nats to the states of 32 kB of text, on Gemma-3-270M with 17 (10).

    Args:
        head: (rows, dim) the base's LM head, any floating dtype.
        tokens: (n,) int64 ids of tokens that text can hold, in the vocabulary's order; neither ``[unused7]``, which
            some vocabularies list first, nor padding.

    Returns:
        (dim,) float32.
    """
    n = max(1, len(tokens) // 50)
    direction: torch.Tensor = head[tokens[:n]].float().mean(dim=0) - head[tokens[-n:]].float().mean(dim=0)
    return -_ESTIMATED_STRENGTH * direction


def calibrating_shifts(
    states: HeadStates,
    base_anchors: torch.Tensor,
    donor_anchors: torch.Tensor,
    new: torch.Tensor,
    donor_new: torch.Tensor,
    log_prior: torch.Tensor | None = None,
) -> torch.Tensor:
    """How far each new token's logit has to move for its mean probability to be the expected one.

    Expected is what ``log_prior`` says, and for other tokens what a ridge regression of the anchors' own mean
    log-probability on their donor rows predicts from the new token's donor row, at most that of the likeliest anchor.

    Args:
        states: What the LM head sees on text.
        base_anchors: (n_anchors, dim) rows of the base's head.
        donor_anchors: (n_anchors, donor dim), the same tokens.
        new: (n_new, dim) reconstructed rows of the head.
        donor_new: (n_new, donor dim), the same tokens.
        log_prior: (n_new,) float32, NaN where nothing is known.

    Returns:
        (n_new,) float32, to be multiplied by `common_direction`.
    """
    known = _mean_log_probability(states, base_anchors).double()
    dim = donor_anchors.shape[1] + 1
    gram, product = torch.zeros(dim, dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64)
    for rows, target in zip(torch.split(donor_anchors, _CHUNK), torch.split(known, _CHUNK), strict=True):
        inputs = _with_constant(rows)
        gram.addmm_(inputs.T, inputs)
        product.addmv_(inputs.T, target)
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    weights = torch.linalg.solve(gram, product)
    expected = torch.cat([_with_constant(rows) @ weights for rows in torch.split(donor_new, _CHUNK)]).float()
    expected = expected.clamp(max=float(known.max()))  # a donor row ten times as long is no reason to expect more
    if log_prior is not None:
        expected = torch.where(log_prior.isnan(), expected, log_prior)
    return expected - _mean_log_probability(states, new)


def _mean_log_probability(states: HeadStates, rows: torch.Tensor) -> torch.Tensor:
    """Log of the mean over states of each row's probability, (n_rows,)."""
    seen, normaliser = states.normalised, states.log_normaliser[:, None]
    parts = []
    for some in torch.split(rows, _CHUNK):
        sums = coarse_product(seen, some).sub_(normaliser).exp_().sum(dim=0).log_()  # much faster than logsumexp
        extreme = torch.nonzero(~((sums > _LOWEST) & sums.isfinite())).flatten()
        if len(extreme):
            sums[extreme] = torch.logsumexp(seen @ some[extreme].float().T - normaliser, dim=0)
        parts.append(sums)
    return torch.cat(parts) - math.log(len(seen)) if len(rows) else torch.zeros(0)


def _with_constant(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(rows.double(), (0, 1), value=1.0)
