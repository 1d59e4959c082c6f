"""Groups that come and go: what they refuse, and that one which was killed comes back to the same bits."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.errors import MissingDependencyError
from tokensurgeon.healing import HealOptions
from tokensurgeon.healing.diloco import require_diloco

needs_torchft = pytest.mark.skipif(find_spec("torchft") is None, reason="needs torchft")


@pytest.mark.skipif(find_spec("torchft") is not None, reason="torchft is installed")
def test_a_missing_torchft_is_named_with_its_extra():
    with pytest.raises(MissingDependencyError, match=r"heal --diloco needs torchft: pip install 'tokensurgeon\[diloco"):
        require_diloco(8, 4, 1)


@needs_torchft
@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ((None, 4, 1), {}, "give --steps, a multiple of 4"),
        ((6, 4, 1), {}, "give --steps, a multiple of 4"),
        ((8, 4, 2), {}, "groups of one process each, and this has 2"),
        ((8, 4, 1), {}, "needs TORCHFT_LIGHTHOUSE="),
        ((8, 4, 1), {"TORCHFT_LIGHTHOUSE": "http://x", "REPLICA_GROUP_ID": "a"}, "must be a whole number"),
    ],
)
def test_what_cannot_be_trained_in_groups(monkeypatch, arguments, environment, message):
    for name in ("TORCHFT_LIGHTHOUSE", "REPLICA_GROUP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        require_diloco(*arguments)


def test_groups_average_by_themselves():
    with pytest.raises(InputError, match="Give one of them"):
        HealOptions(diloco=4, average=2)


@pytest.fixture
def lighthouse():
    """Its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("torchft_lighthouse")
    line = [program, "--bind", f"[::]:{port}", "--min_replicas", "1", "--join_timeout_ms", "20000"]
    line += ["--heartbeat_timeout_ms", "2000"]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield f"http://127.0.0.1:{port}"
        process.kill()


class Group:
    """One of the groups."""

    def __init__(self, number, lighthouse, line, out, tmp_path, log):
        """Start it."""
        env = os.environ | {"TORCHFT_LIGHTHOUSE": lighthouse, "REPLICA_GROUP_ID": str(number), "OMP_NUM_THREADS": "1"}
        env |= {
            "ACCELERATE_USE_CPU": "true",
            "ACCELERATE_MIXED_PRECISION": "no",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        code = (
            "import os, time\n"
            "from tokensurgeon.healing import texts, loop\n"
            "texts._PYTHON_BYTES, texts._HELD_OUT = 1 << 15, 4096\n"
            "update = loop.Loop._update\n"
            "def told(self, *args):\n"
            "    found = update(self, *args)\n"
            f"    open({str(tmp_path / log)!r}, 'a').write(f'{{self.report.steps}}\\n')\n"
            f"    while os.path.exists({str(tmp_path / 'wait')!r}): time.sleep(0.05)\n"
            "    return found\n"
            "loop.Loop._update = told\n"
            "from tokensurgeon.cli import main; main()\n"
        )
        self.log = tmp_path / log
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, line), "--out", str(out)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def steps(self):
        """Steps that it has made."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def until(self, steps, limit=200):
        """Wait for so many."""
        begun = time.monotonic()
        while self.steps() < steps:
            assert self.process.poll() is None and time.monotonic() - begun < limit, self.process.communicate()
            time.sleep(0.02)


def digest(directory):
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
@needs_torchft
def test_a_group_that_is_killed_and_comes_back_is_like_the_others(zoo, tmp_path, lighthouse):
    transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "moved", TransplantOptions(k=8))
    every, steps = 4, 60
    line = ("heal", tmp_path / "moved", "--teacher", zoo["gpt"], "--steps", steps, "--diloco", every)
    line += ("--batch", 1, "--rows", "all", "--lora", 2, "--learning-rate", 0.002, "--json")
    outs = [tmp_path / f"out{n}" for n in range(2)]
    groups = [Group(n, lighthouse, line, outs[n], tmp_path, f"log{n}") for n in range(2)]
    for group in groups:
        group.until(3 * every)
    groups[1].process.send_signal(signal.SIGKILL)
    groups[1].process.wait()
    alone = groups[0].steps()
    groups[0].until(alone + 2 * every)  # it goes on by itself
    (tmp_path / "wait").touch()  # or it would be over before the other has loaded its models
    groups[1] = Group(1, lighthouse, line, outs[1], tmp_path, "log-again")
    groups[1].until(1)
    (tmp_path / "wait").unlink()
    found = [group.process.communicate(timeout=400) for group in groups]
    assert [group.process.returncode for group in groups] == [0, 0], found
    assert groups[1].steps() <= steps - alone < groups[0].steps() == steps  # it took over what it did not train itself
    assert digest(outs[0]) == digest(outs[1]) != digest(tmp_path / "moved")
    reports = [json.loads(stdout) for stdout, _ in found]
    assert [report["steps"] for report in reports] == [steps, steps]
    best = [(report["best"]["step"], report["best"]["held_out"]) for report in reports]
    assert best[0] == best[1] and best[0][1] < reports[0]["curve"][0]["held_out"]
    for sent in (report["sent"] for report in reports):
        assert sent["at_every_step"] == pytest.approx(every * sent["bytes"], rel=0.3)
