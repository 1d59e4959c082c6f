"""Groups that come and go: what they refuse, and that they end with the same bits, whatever was killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.errors import MissingDependencyError
from tokensurgeon.healing import HealOptions
from tokensurgeon.healing.diloco import require_diloco

EVERY, STEPS = 8, 40  # all meetings but the first are scored
needs_torchft = pytest.mark.skipif(find_spec("torchft") is None, reason="torchft has no wheel for this machine")


def test_a_missing_torchft_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchft", None)
    with pytest.raises(MissingDependencyError, match=r"heal --diloco needs torchft: pip install 'tokensurgeon\[diloco"):
        require_diloco(8, 4)


@needs_torchft
@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ((None, 4), {}, "give --steps, a multiple of 4"),
        ((6, 4), {}, "give --steps, a multiple of 4"),
        ((8, 4), {}, "needs TORCHFT_LIGHTHOUSE="),
        ((8, 4), {"TORCHFT_LIGHTHOUSE": "http://x"}, "must be a whole number, another in each group"),
        ((8, 4), {"TORCHFT_LIGHTHOUSE": "http://x", "REPLICA_GROUP_ID": "a"}, "must be a whole number"),
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


class Lighthouse:
    """Knows which groups live."""

    def __init__(self):
        """Begin, at a port of its own."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.begin()

    def begin(self):
        """Begin again where its port is still being left."""
        program = Path(sys.executable).with_name("torchft_lighthouse")
        line = [program, "--bind", f"[::]:{self.port}", "--min_replicas", "1", "--join_timeout_ms", "20000"]
        line += ["--heartbeat_timeout_ms", "2000"]
        self.process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
            self.begin()

    def end(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def lighthouse():
    """One that ends with the test."""
    found = Lighthouse()
    yield found
    found.end()


class Group:
    """One of the groups."""

    def __init__(self, number, lighthouse, line, out, tmp_path, log=None, processes=1):
        """Start it."""
        log = log or f"log{number}"
        env = os.environ | {
            "TORCHFT_LIGHTHOUSE": lighthouse.address,
            "REPLICA_GROUP_ID": str(number),
        }
        env |= {
            "OMP_NUM_THREADS": "1",
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
            "    if self.accelerator.is_main_process:\n"
            f"        open({str(tmp_path / log)!r}, 'a').write(f'{{self.report.steps}}\\n')\n"
            f"    while os.path.exists({str(tmp_path / 'wait')!r}): time.sleep(0.05)\n"
            "    return found\n"
            "loop.Loop._update = told\n"
            "from tokensurgeon.cli import main; main()\n"
        )
        self.log, program = tmp_path / log, tmp_path / f"{log}.py"
        program.write_text(code)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        self.process = subprocess.Popen(
            [sys.executable, *(launcher if processes > 1 else []), program, *map(str, line), "--out", out],
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

    def kill(self):
        """End all of its processes, with no time to say so."""
        above = psutil.Process(self.process.pid)
        every = [above, *above.children(recursive=True)]
        for process in every:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(every)

    def ended(self, limit=400):
        """Its exit code and what it wrote."""
        stdout, stderr = self.process.communicate(timeout=limit)
        return self.process.returncode, stdout, stderr


def digest(directory):
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def moved(zoo, tmp_path_factory):
    """A transplant."""
    out = tmp_path_factory.mktemp("moved") / "moved"
    transplant(str(zoo["gpt"]), str(zoo["spm"]), out, TransplantOptions(k=8))
    return out


@pytest.fixture
def line(zoo, moved):
    """What all groups are asked for."""
    asked = ("--rows", "all", "--lora", 2, "--learning-rate", 0.002)
    return ("heal", moved, "--teacher", zoo["gpt"], "--diloco", EVERY, "--steps", STEPS, *asked, "--json")


def started(lighthouse, lines, outs, tmp_path, **more):
    """Groups that begin together."""
    (tmp_path / "wait").touch()
    groups = [Group(n, lighthouse, lines[n], out, tmp_path, **more) for n, out in enumerate(outs)]
    for group in groups:
        group.until(1)
    (tmp_path / "wait").unlink()
    return groups


def alike(outs, moved):
    """Whether outputs are equal, and another model than at first."""
    digests = {digest(out) for out in outs}
    return len(digests) == 1 and digest(moved) not in digests


def killed_and_back(groups, lighthouse, line, outs, tmp_path, **more):
    """Kill the second of two that have met, let the first go on by itself, start it again; what the first had made."""
    groups[1].kill()
    alone = groups[0].steps()
    groups[0].until(alone + EVERY)
    (tmp_path / "wait").touch()  # or it would be over before the other has loaded its models
    groups[1] = Group(1, lighthouse, line, outs[1], tmp_path, "log-again", **more)
    groups[1].until(1)
    (tmp_path / "wait").unlink()
    return alone


@pytest.mark.slow
@needs_torchft
def test_a_group_that_is_killed_and_comes_back_is_like_the_others(moved, line, tmp_path, lighthouse):
    outs = [tmp_path / f"out{n}" for n in range(2)]
    groups = started(lighthouse, [line] * 2, outs, tmp_path)
    for group in groups:
        group.until(EVERY)
    alone = killed_and_back(groups, lighthouse, line, outs, tmp_path)
    found = [group.ended() for group in groups]
    assert [code for code, _, _ in found] == [0, 0], found
    assert groups[1].steps() <= STEPS - alone < groups[0].steps() == STEPS  # it took over what it did not train itself
    assert alike(outs, moved)
    reports = [json.loads(stdout) for _, stdout, _ in found]
    assert [report["steps"] for report in reports] == [STEPS, STEPS]
    scored = [[(entry["step"], entry["held_out"]) for entry in report["curve"]] for report in reports]
    assert scored[0] == scored[1] and [step for step, _ in scored[0]] == [0, *range(2 * EVERY, STEPS + 1, EVERY)]
    assert reports[0]["best"]["held_out"] < scored[0][0][1]
    handed, taken = (report["sent"] for report in reports)
    assert taken["at_every_step"] == pytest.approx(EVERY * taken["bytes"]) and taken["bytes"] > 0
    assert handed["at_every_step"] < 0.8 * EVERY * handed["bytes"]  # it also sent its state


@pytest.mark.slow
@needs_torchft
def test_two_groups_of_two_processes_end_alike_though_one_is_killed(moved, line, tmp_path, lighthouse):
    outs = [tmp_path / f"out{n}" for n in range(2)]
    groups = started(lighthouse, [line] * 2, outs, tmp_path, processes=2)
    groups[0].until(EVERY)
    killed_and_back(groups, lighthouse, line, outs, tmp_path, processes=2)
    found = [group.ended() for group in groups]
    assert [code for code, _, _ in found] == [0, 0], found
    assert alike(outs, moved)


@pytest.mark.slow
@needs_torchft
def test_groups_wait_for_a_lighthouse_that_is_lost_until_it_is_back(moved, line, tmp_path, lighthouse):
    outs = [tmp_path / f"out{n}" for n in range(2)]
    groups = started(lighthouse, [line] * 2, outs, tmp_path)
    for group in groups:
        group.until(EVERY)
    lighthouse.end()
    for group in groups:
        group.until(-(-(group.steps() + 1) // EVERY) * EVERY - 1)  # the last step before they want to meet
    time.sleep(3)
    before = [group.steps() for group in groups]
    assert max(before) < STEPS
    lighthouse.begin()
    assert [group.ended()[0] for group in groups] == [0, 0]
    assert alike(outs, moved)


@pytest.mark.slow
@needs_torchft
def test_groups_that_differ_refuse_each_other_when_they_meet(zoo, line, tmp_path, lighthouse):
    (tmp_path / "text").write_text((zoo["gpt"] / "tokenizer.json").read_text()[:20_000])
    lines = [line, (*line, "--seed", 1, "--text", tmp_path / "text")]
    outs = [tmp_path / f"out{n}" for n in range(2)]
    groups = started(lighthouse, lines, outs, tmp_path)
    for group, out in zip(groups, outs, strict=True):
        code, _, stderr = group.ended()
        assert code == 2 and "groups differ in text, options, first values of what is trained. All need the" in stderr
        assert "Traceback" not in stderr and not out.exists()
        assert group.steps() <= EVERY


@pytest.mark.slow
@needs_torchft
def test_one_that_comes_later_and_differs_is_refused_alone(moved, line, tmp_path, lighthouse):
    outs = [tmp_path / f"out{n}" for n in range(3)]
    groups = started(lighthouse, [line] * 2, outs[:2], tmp_path)
    groups[0].until(EVERY)
    (tmp_path / "wait").touch()
    groups.append(Group(2, lighthouse, (*line, "--batch", 2), outs[2], tmp_path))
    groups[2].until(1)
    (tmp_path / "wait").unlink()
    code, _, stderr = groups[2].ended()
    assert code == 2 and "groups differ in options. All need the same" in stderr and not outs[2].exists()
    assert [group.ended()[0] for group in groups[:2]] == [0, 0]
    assert alike(outs[:2], moved)
