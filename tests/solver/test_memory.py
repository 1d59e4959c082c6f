"""Sizes and free memory."""

from __future__ import annotations

import psutil
import pytest
import torch

import tokensurgeon.solver.memory as budget
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
    """The tightest of our group and those above; file cache is as good as free."""
    monkeypatch.setattr(budget, "_GROUPS", tmp_path)
    monkeypatch.setattr(budget, "_OWN_GROUP", tmp_path / "cgroup")
    cpu = torch.device("cpu")
    assert budget.free_memory(cpu) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    (tmp_path / "cgroup").write_text("1:cpu:/\n0::/job/step\n")
    step = tmp_path / "job" / "step"
    step.mkdir(parents=True)
    for group, limit, used, cache in ((step, "max", 100, 0), (step.parent, "100000", 90_000, 30_000)):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 5\nactive_file {cache // 2}\ninactive_file {cache // 2}\n")
    assert budget.free_memory(cpu) == 40_000 and budget.host_memory() == 100_000
    (step.parent / "memory.max").write_text("max\n")
    assert budget.free_memory(cpu) > 2**20 and budget.host_memory() == psutil.virtual_memory().total
