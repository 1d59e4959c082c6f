"""Say by what share of their rates parameters learn, as training goes on."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tokensurgeon.healing.options import TrainingOptions

__all__ = ["schedule_of"]

_WARM_UP = 0.05
_LEAST = 0.01
_FINE = 10_000
"""Steps of the schedule where time counts and not steps."""


def schedule_of(options: TrainingOptions) -> Callable[[float], float]:
    """The factor of all rates, by the share of training that is done.

    ``linear`` warms up and goes down to the end. ``wsd`` warms up, stays, and goes down at the end alone, as
    transformers has it: a training that begins from a finished model can so be as long as one likes.
    """
    if options.schedule == "linear":
        return _linear
    from transformers import get_wsd_schedule

    steps = options.steps or _FINE
    unused = torch.optim.SGD([torch.zeros(1)])  # what is wanted of the schedule is its curve
    curve = get_wsd_schedule(
        unused,
        num_warmup_steps=max(1, round(steps * _WARM_UP)),
        num_decay_steps=max(1, round(steps * options.decay)),
        num_training_steps=steps,
        decay_type="1-sqrt",
        min_lr_ratio=_LEAST,
    ).lr_lambdas[0]
    return lambda share: float(curve(share * steps))


def _linear(share: float) -> float:
    factor = share / _WARM_UP if share < _WARM_UP else 1 - (share - _WARM_UP) / (1 - _WARM_UP)
    return max(factor, _LEAST)
