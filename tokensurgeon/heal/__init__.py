"""Healing: the untouched base, in its own tokenization, teaches a transplanted model, in the new one."""

from tokensurgeon.heal.options import HealOptions
from tokensurgeon.heal.run import HealReport, heal

__all__ = ["HealOptions", "HealReport", "heal"]
