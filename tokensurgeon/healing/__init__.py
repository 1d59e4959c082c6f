"""Healing: the untouched base, in its own tokenization, teaches a transplanted model, in the new one."""

from tokensurgeon.healing.loop import HealReport
from tokensurgeon.healing.options import HealOptions
from tokensurgeon.healing.run import heal

__all__ = ["HealOptions", "HealReport", "heal"]
