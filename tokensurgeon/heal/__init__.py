"""Healing: the untouched base, in its own tokenization, teaches a transplanted model, in the new one."""

from tokensurgeon.heal.loop import HealReport
from tokensurgeon.heal.options import HealOptions
from tokensurgeon.heal.run import heal

__all__ = ["HealOptions", "HealReport", "heal"]
