"""Run the command ``tokensurgeon``."""

from __future__ import annotations

from tokensurgeon.cli.app import main

__all__ = ["main"]
