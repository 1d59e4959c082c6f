"""A real healing in two groups, one of which is killed and comes back: a log of that, its loss, and what was sent.

    unshare -rn python -m benchmarks.experiments.diloco benchmarks/experiments/diloco.toml

``unshare -rn`` gives a loopback of its own, whose counters tell what went over it: between the first step and the last,
so that what DDP sends before it begins does not count. Lines on when what happened are in seconds since the first step
of the first group.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.common import models
from benchmarks.common.provenance import provenance
from benchmarks.common.stepped import loopback
from benchmarks.common.timing import timed
from benchmarks.experiments.heal import training_text

RESULTS = Path(__file__).parents[1] / "results"
_OWN = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
_LIGHTHOUSE = "http://127.0.0.1:29510"
_SET_FLAGS, _UP_AND_LOOPBACK = 0x8914, 0x1 | 0x8
_PATIENCE_S = 3600


def main(path: Path) -> None:
    """Train in all ways from the same transplant, and write what was seen."""
    raise_loopback()
    experiment = tomllib.loads(path.read_text())
    base, donor = (str(getattr(models, experiment[side])()) for side in ("base", "donor"))
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment}
    result["versions"]["torchft"] = version("torchft")
    result["hardware"]["threads"] = int(_OWN["OMP_NUM_THREADS"])
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-diloco-") as directory:
        work = Path(directory)
        start = str(work / "start")
        timed([sys.executable, "-m", "tokensurgeon", base, donor, "--out", start, *experiment["transplant"], "--quiet"])
        text = [str(file) for file in training_text(work, "alike")]
        result["sides"] = {}
        for title, side in sides(experiment, work, {"model": start, "teacher": base}, {"text": text}):
            result["sides"][title] = side
            print(title, json.dumps(side, indent=1), flush=True)
    groups, ddp = (
        result["sides"][title]["measured_bytes_per_token"] for title in ("two groups", "two processes (DDP)")
    )
    result["times_less_than_ddp"] = ddp / groups
    (RESULTS / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


def sides(
    experiment: dict[str, Any], work: Path, asked: dict[str, Any], options: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """By title, what was seen of each way to train."""
    steps = experiment["steps"]

    def run(name: str, group: int | None = None, processes: int = 1, **more: Any) -> Run:
        own = asked | {"out": str(work / name), "options": options | experiment["options"] | more}
        return Run(work / f"{name}.log", own, group, processes)

    def group(name: str, number: int) -> Run:
        return run(f"{name}-{number}", number, steps=steps, diloco=experiment["every"])

    for title, killed in (("two groups, one killed and back", True), ("two groups", False)):
        name = "killed" if killed else "groups"
        with lighthouse():
            runs = [group(name, number) for number in range(2)]
            first, second = runs
            events = kill_and_return(runs, experiment, lambda: group("back", 1)) if killed else {}
            for each in runs:
                each.end()
        yield title, of_groups(runs) | (events and told(first, second, runs[1], events))
    both = run("ddp", processes=2, steps=experiment["ddp_steps"])
    both.end()
    yield "two processes (DDP)", {"measured_bytes_per_token": sent([both])}
    alone = run("alone", steps=steps, batch=2)
    alone.end()
    yield "one process, twice the batch", scores(alone)


class Run:
    """A healing in a process of its own, or several.

    Attributes:
        out: The written model.
    """

    def __init__(self, log: Path, asked: dict[str, Any], group: int | None, processes: int) -> None:
        """Start it, as one of the groups or alone."""
        env = os.environ | _OWN
        if group is not None:
            env |= {"TORCHFT_LIGHTHOUSE": _LIGHTHOUSE, "REPLICA_GROUP_ID": str(group)}
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *(launcher if processes > 1 else []), "-m", "benchmarks.common.stepped"]
        self.out, self._log, self._said = Path(asked["out"]), log, log.with_suffix(".err")
        with self._said.open("w") as said:
            self.process = subprocess.Popen([*command, str(log), json.dumps(asked)], env=env, stdout=said, stderr=said)

    def lines(self) -> list[dict[str, Any]]:
        """Its steps so far."""
        return [line for line in self._lines() if "steps" in line]

    def report(self) -> dict[str, Any]:
        """What it had to say at the end."""
        found: dict[str, Any] = self._lines()[-1]["report"]
        return found

    def _lines(self) -> list[dict[str, Any]]:
        whole = self._log.read_text().rpartition("\n")[0] if self._log.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]

    def until(self, steps: int) -> None:
        """Wait until it has made so many."""
        while len(self.lines()) < steps:
            if self.process.poll() is not None:
                raise RuntimeError(self._said.read_text()[-3000:])
            time.sleep(0.05)

    def end(self) -> None:
        """Wait until it has ended well."""
        if self.process.wait(_PATIENCE_S):
            raise RuntimeError(self._said.read_text()[-3000:])


def kill_and_return(runs: list[Run], experiment: dict[str, Any], again: Callable[[], Run]) -> dict[str, float]:
    """Kill the second and, when the first has gone on for a while, start it again; when both happened."""
    first, second = runs
    second.until(experiment["killed_at"])
    second.process.kill()
    second.process.wait()
    events = {"killed": time.time()}
    first.until(len(first.lines()) + experiment["away"])
    runs[1] = again()
    return events | {"started again": time.time()}


def told(first: Run, second: Run, back: Run, events: dict[str, float]) -> dict[str, Any]:
    """A log of what happened, in seconds since the first step of the first group, and how steps of that went on."""
    lines, own = first.lines(), back.lines()
    begun = lines[0]["at"]
    joined = next((i for i in range(1, len(own)) if own[i]["steps"] > own[i - 1]["steps"] + 1), None)
    if joined is None:
        raise RuntimeError("the first group had ended when the second was back: more steps are needed")
    failed = [line for before, line in pairwise(lines) if line["steps"] <= before["steps"]]
    happened = [
        (events["killed"], f"SIGKILL of the second group, which had made {second.lines()[-1]['steps']} steps"),
        *(
            (line["at"], f"a meeting came to nothing: the first group is at step {line['steps']} again")
            for line in failed
        ),
        (events["started again"], "the second group is started again"),
        (own[0]["at"], "the second group makes its first step since"),
        (own[joined]["at"], f"the groups meet; the second has taken over and is at step {own[joined]['steps']}"),
        (lines[-1]["at"], f"the first group has made {lines[-1]['steps']} steps"),
        (own[-1]["at"], f"the second group has made {own[-1]['steps']} steps"),
    ]
    gaps = [(after["at"] - before["at"], after) for before, after in pairwise(lines)]
    longest, at = max(gaps, key=lambda gap: gap[0])
    return {
        "log": [
            {"at_s": round(when - begun, 1), "first_group_at_step": reached(lines, when), "what": what}
            for when, what in sorted(happened)
        ],
        "median_gap_s": round(statistics.median(gap for gap, _ in gaps), 2),
        "longest_gap_s": round(longest, 2),
        "longest_gap_before_step": at["steps"],
        "steps_made": {"first": len(lines), "second, killed": len(second.lines()), "second, back": len(own)},
    }


def reached(lines: list[dict[str, Any]], when: float) -> int:
    """The last step by then."""
    return max((line["steps"] for line in lines if line["at"] <= when), default=0)


def of_groups(runs: list[Run]) -> dict[str, Any]:
    """Scores, digests, and what was sent: as the loopback counted it, and as the groups report it."""
    digests = [hashlib.sha256((run.out / "model.safetensors").read_bytes()).hexdigest() for run in runs]
    reports = [run.report() for run in runs]
    tokens = sum(report["tokens"] for report in reports)
    reported = {
        name: sum(report["sent"][name] * report["tokens"] for report in reports) / tokens
        for name in ("bytes", "at_every_step")
    }
    return scores(runs[0]) | {
        "tokens": tokens,
        "sha256": digests,
        "equal": len(set(digests)) == 1,
        "measured_bytes_per_token": sent(runs),
        "of_it_for_membership": membership(runs),
        "reported_bytes_per_token": reported,
    }


def scores(run: Run) -> dict[str, Any]:
    """Bits per byte before and after, and what that took."""
    report = run.report()
    kept = {key: report[key] for key in ("steps", "tokens", "seconds", "rows", "curve", "best")}
    return kept | {"start": {key: report["curve"][0][key] for key in ("held_out", "other")}}


def sent(runs: list[Run]) -> float:
    """Bytes over the loopback for each token read, between the first step and the last."""
    lines = [run.lines() for run in runs]
    span = lines[0][-1]["loopback"] - lines[0][0]["loopback"]
    return float(span / sum(of[-1]["tokens"] - of[0]["tokens"] for of in lines))


def membership(runs: list[Run]) -> float:
    """Bytes for each token that go over the loopback while groups do not meet, by the median step."""
    lines = [run.lines() for run in runs]
    rates = [
        (after["loopback"] - before["loopback"]) / (after["at"] - before["at"]) for before, after in pairwise(lines[0])
    ]
    seconds = lines[0][-1]["at"] - lines[0][0]["at"]
    return float(statistics.median(rates) * seconds / sum(of[-1]["tokens"] - of[0]["tokens"] for of in lines))


@contextmanager
def lighthouse() -> Iterator[None]:
    """Knows which groups live."""
    program = Path(sys.executable).with_name("torchft_lighthouse")
    line = [program, "--min_replicas", "1", "--join_timeout_ms", "300000", "--bind", f"[::]:{_LIGHTHOUSE[-5:]}"]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def raise_loopback() -> None:
    """Let a new loopback be used.

    Raises:
        SystemExit: If it is not new: others' bytes would be counted.
    """
    if loopback():
        sys.exit("others use this loopback: start with unshare -rn")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh", b"lo", _UP_AND_LOOPBACK))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
