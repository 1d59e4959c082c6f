"""Several real processes, as torchrun starts them, against one."""

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


def torchrun(*arguments):
    command = [*TORCHRUN, "-m", "tokensurgeon", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.usefixtures("all_read")
def test_two_processes_write_what_one_writes(zoo, tmp_path):
    """The donor's own head is solved too, 301 targets do not divide evenly, and only rank 0 writes."""
    one, two = tmp_path / "one", tmp_path / "two"
    transplant(str(zoo["gpt"]), str(zoo["spm"]), one, TransplantOptions(k=8, untie=True))
    shared = torchrun(zoo["gpt"], zoo["spm"], "--k", 8, "--untie", "--out", two, "--json")
    assert shared.returncode == 0, shared.stderr
    assert json.loads(shared.stdout)["out"] == str(two)  # one object: the other rank is silent
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    for path in one.iterdir():
        if path.name not in ("tokensurgeon.json", "README.md"):
            assert path.read_bytes() == (two / path.name).read_bytes(), path.name
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow
def test_bad_input_ends_all_ranks(zoo, tmp_path):
    result = torchrun(zoo["gpt"], zoo["spm"], "--k", 10**6, "--out", tmp_path / "out")
    assert result.returncode and "k=1000000 exceeds" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
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
