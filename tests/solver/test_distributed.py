"""Several real processes, against one: forked ones by default, and what torchrun itself starts where time allows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest

from tokensurgeon import TransplantOptions, transplant

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def forked(*arguments):
    return processes.ranks(2, processes.MAIN, *arguments)


def torchrun(*arguments):
    """The launcher's one result stands for its ranks: what they write goes through it."""
    command = [*TORCHRUN, "-m", "tokensurgeon", *map(str, arguments)]
    return [subprocess.run(command, capture_output=True, text=True, check=False)]


LAUNCHERS = pytest.mark.parametrize("launch", [forked, pytest.param(torchrun, marks=pytest.mark.slow)])


@LAUNCHERS
@pytest.mark.usefixtures("all_read")
def test_two_processes_write_what_one_writes(zoo, tmp_path, launch):
    """The donor's own head is solved too, 301 targets do not divide evenly, and only rank 0 writes."""
    one, two = tmp_path / "one", tmp_path / "two"
    transplant(str(zoo["gpt"]), str(zoo["spm"]), one, TransplantOptions(k=8, untie=True))
    shared = launch(zoo["gpt"], zoo["spm"], "--k", 8, "--untie", "--out", two, "--json")
    assert not any(result.returncode for result in shared), [result.stderr for result in shared]
    # One object: the other rank is silent.
    assert json.loads("".join(result.stdout for result in shared))["out"] == str(two)
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    for path in one.iterdir():
        if path.name not in ("tokensurgeon.json", "README.md"):
            assert path.read_bytes() == (two / path.name).read_bytes(), path.name
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@LAUNCHERS
def test_bad_input_ends_all_ranks(zoo, tmp_path, launch):
    results = launch(zoo["gpt"], zoo["spm"], "--k", 10**6, "--out", tmp_path / "out")
    assert all(result.returncode for result in results)
    assert "k=1000000 exceeds" in "".join(result.stderr for result in results)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(zoo, tmp_path, how):
    """Interrupted where the output is half written: its directory has just appeared."""
    child = processes.Process(processes.MAIN, zoo["gpt"], zoo["spm"], "--k", 8, "--out", tmp_path / "out")
    until = time.monotonic() + 300
    while not list(tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.001)
    seen = [p.name for p in Path(tmp_path).iterdir()]
    os.kill(child.pid, how)
    result = child.wait(60)
    assert seen and seen[0].startswith(".out.partial-")
    assert result.returncode == 130 and "interrupted; nothing was written" in result.stderr
    assert list(tmp_path.iterdir()) == []
