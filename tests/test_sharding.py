"""Several real processes under torchrun, against one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import MAIN, TORCHRUN, Process, run

TWO = ["--nproc-per-node", "2", "-m", "tokensurgeon"]


def test_two_processes_write_what_one_writes(zoo, tmp_path):
    """The donor's own head is solved too, 301 targets do not divide evenly, and only rank 0 writes."""
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = (zoo["gpt"], zoo["spm"], "--k", 8, "--untie")
    alone = run(MAIN, *arguments, "--out", one, "--quiet")
    assert alone.returncode == 0, alone.stderr
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *TWO, *map(str, arguments)]
    shared = subprocess.run([*command, "--out", str(two), "--json"], capture_output=True, text=True)
    assert shared.returncode == 0, shared.stderr
    assert json.loads(shared.stdout)["out"] == str(two)  # one object: the other rank is silent
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    for path in one.iterdir():
        if path.name not in ("tokensurgeon.json", "README.md"):
            assert path.read_bytes() == (two / path.name).read_bytes(), path.name
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_bad_input_ends_all_ranks(zoo, tmp_path):
    result = run(TORCHRUN, *TWO, zoo["gpt"], zoo["spm"], "--k", 10**6, "--out", tmp_path / "out")
    assert result.returncode != 0 and "k=1000000 exceeds" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(zoo, tmp_path, how):
    """Interrupted where the output is half written: its directory has just appeared."""
    child = Process(MAIN, zoo["gpt"], zoo["spm"], "--k", "8", "--out", tmp_path / "out")
    until = time.monotonic() + 300
    while not list(tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.001)
    seen = [p.name for p in Path(tmp_path).iterdir()]
    os.kill(child.pid, how)
    done = child.wait(timeout=60)
    assert seen and seen[0].startswith(".out.partial-")
    assert done.returncode == 130 and "interrupted; nothing was written" in done.stderr
    assert list(tmp_path.iterdir()) == []
