"""The table on recipes, and the texts that they are measured on."""

from __future__ import annotations

from benchmarks.experiments.pipeline import measuring, prepared
from benchmarks.tables.pipeline import pipeline

BEFORE, AFTER = {"first-text-test": 1.25, "second-text-test": 0.5}, {"first-text-test": 1.0, "second-text-test": 1.0}
RESULT = {
    "title": "balanced: A",
    "settings": {"texts": {"first-text": "arxiv", "second-text": "python"}, "test_bytes": 2048, "train_bytes": 4000},
    "stages": {
        "before": {"model": BEFORE},
        "after": {"model": AFTER, "against": BEFORE},
        "last": None,
    },
    "training": {"trained": {"steps": 7}, "merged": None},
    "gates_kept": False,
}  # fmt: skip


def test_every_stage_has_its_bits_and_what_it_loses():
    table = pipeline([RESULT])
    assert "| **balanced: A** | *arXiv* | *Python's docs* |" in table
    assert "| before | 1.250 | 0.500 |" in table and "| after | 1.000 (-0.250) | 1.000 (+0.500) |" in table
    assert "| last | not come to |  |" in table
    assert "7 updates in `trained`, a gate was not kept to" in table


def test_what_is_measured_on_is_not_trained_on(tmp_path):
    train, test = prepared("python", tmp_path / "docs", 8_000, 3_000)
    first, second = train.read_text(), test.read_text()
    assert test.name == "docs-test.txt" and len(second) >= 3_000 and second[:200] not in first


def test_stages_that_measure_are_found_in_order():
    stages = [{"name": "a", "evaluate": {}}, {"name": "b", "merge": {}}, {"name": "c", "evaluate": {}}]
    assert measuring({"stages": stages}) == ["a", "c"]
