"""Run mergekit-yaml with our methods besides its own: ``python -m tokensurgeon.merging RECIPE.yaml OUT``."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from tokensurgeon.errors import MissingDependencyError

if find_spec("mergekit") is None:
    sys.exit(f"error: {MissingDependencyError('mergekit', 'merge', 'merging')}")

from mergekit.scripts.run_yaml import main

from tokensurgeon.merging.methods.register import register

register()

if __name__ == "__main__":
    main()
