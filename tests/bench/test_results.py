"""Figures in the README come from committed results."""

from __future__ import annotations

import pytest

from benchmarks.tables import results as readme


def test_the_readme_agrees_with_the_results():
    text = (readme.ROOT / "README.md").read_text()
    assert readme.render(text) == text, "run: python -m benchmarks.tables.results"


def test_a_missing_block_is_an_error():
    with pytest.raises(ValueError, match="0 blocks"):
        readme.render("# nothing here")
