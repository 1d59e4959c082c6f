"""Heal a transplanted model: its untouched base teaches it, each in its own tokenization."""

from tokensurgeon.healing.course import HealReport
from tokensurgeon.healing.options import HealOptions
from tokensurgeon.healing.run import heal

__all__ = ["HealOptions", "HealReport", "heal"]
