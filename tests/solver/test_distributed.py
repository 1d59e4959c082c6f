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

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(launcher, *arguments):
    return subprocess.run([*launcher, "-m", "tokensurgeon", *map(str, arguments)], capture_output=True, text=True)


def test_two_processes_write_what_one_writes(zoo, tmp_path):
    """The donor's own head is solved too, 301 targets do not divide evenly, and only rank 0 writes."""
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = (zoo["gpt"], zoo["spm"], "--k", 8, "--untie")
    alone = run([sys.executable], *arguments, "--out", one, "--quiet")
    assert alone.returncode == 0, alone.stderr
    shared = run(TORCHRUN, *arguments, "--out", two, "--json")
    assert shared.returncode == 0, shared.stderr
    assert json.loads(shared.stdout)["out"] == str(two)  # one object: the other rank is silent
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    for path in one.iterdir():
        if path.name not in ("tokensurgeon.json", "README.md"):
            assert path.read_bytes() == (two / path.name).read_bytes(), path.name
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_bad_input_ends_all_ranks(zoo, tmp_path):
    result = run(TORCHRUN, zoo["gpt"], zoo["spm"], "--k", 10**6, "--out", tmp_path / "out")
    assert result.returncode != 0 and "k=1000000 exceeds" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(zoo, tmp_path, how):
    """Interrupted where the output is half written: its directory has just appeared."""
    command = [sys.executable, "-m", "tokensurgeon", str(zoo["gpt"]), str(zoo["spm"]), "--k", "8"]
    child = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 300
    while not list(tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.001)
    seen = [p.name for p in Path(tmp_path).iterdir()]
    os.kill(child.pid, how)
    _, errors = child.communicate(timeout=60)
    assert seen and seen[0].startswith(".out.partial-")
    assert child.returncode == 130 and "interrupted; nothing was written" in errors
    assert list(tmp_path.iterdir()) == []
