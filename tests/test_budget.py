"""Sizes and free memory."""

from __future__ import annotations

import psutil
import pytest
import torch

import tokensurgeon.budget as budget
from tokensurgeon import InputError, TransplantOptions


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 * 2**30), ("512M", 512 * 2**20), ("1.5 gb", 3 * 2**29), ("2000", 2000), ("1K", 1024), ("1TiB", 2**40)],
)
def test_sizes(text, size):
    assert budget.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1G", "0", "4 GiB per rank", 5])
def test_what_is_no_size(text):
    with pytest.raises(InputError, match=r"is not a size. Write it like 4GiB"):
        TransplantOptions(memory=text)


def test_a_container_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "_CGROUP", tmp_path)
    cpu = torch.device("cpu")
    assert budget.free_memory(cpu) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    (tmp_path / "memory.max").write_text("100000\n")
    (tmp_path / "memory.current").write_text("60000\n")
    assert budget.free_memory(cpu) == 40_000
    (tmp_path / "memory.max").write_text("max\n")
    assert budget.free_memory(cpu) > 2**20
