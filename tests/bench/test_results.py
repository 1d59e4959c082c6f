"""Figures in RESULTS.md and the README come from committed results."""

from __future__ import annotations

import pytest

from benchmarks.tables import results as pages


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_page_agrees_with_the_results(page):
    text = (pages.ROOT / page).read_text("utf-8")
    assert pages.render(text, pages.PAGES[page]) == text, "run: python -m benchmarks.tables.results"


def test_a_missing_block_is_an_error():
    with pytest.raises(ValueError, match="0 blocks"):
        pages.render("# nothing here", ["anchors"])


def test_a_block_that_nobody_writes_is_an_error():
    with pytest.raises(ValueError, match="blocks for solver"):
        pages.render("<!-- results:solver -->\nold\n<!-- /results:solver -->", [])
