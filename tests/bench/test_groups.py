"""What the experiment on groups makes of logs of steps."""

from __future__ import annotations

import json

import pytest

from benchmarks.experiments.diloco import RESULTS, Run, membership, reached, sent, told
from benchmarks.tables.diloco import diloco


def run(path, steps, start=0.0, each=1.0):
    """A healing of which there is a log: a step takes ``each`` seconds and sends 10 bytes, and every tenth 1000."""
    found, path = Run.__new__(Run), path.with_suffix(".log")
    loopback, lines = 0, []
    for number, step in enumerate(steps, 1):
        loopback += 1000 if step % 10 == 0 else 10
        lines.append({"at": start + each * number, "steps": step, "tokens": 5 * number, "loopback": loopback})
    found._log = path
    path.write_text("\n".join(map(json.dumps, lines)) + "\n" + '{"at": 1')  # the last line is being written
    return found


def test_bytes_are_those_between_first_and_last_step(tmp_path):
    runs = [run(tmp_path / str(n), range(1, 22)) for n in range(2)]
    assert sent(runs) == pytest.approx((2 * 1000 + 18 * 10) / (2 * 5 * 20))
    assert membership(runs) == pytest.approx(20 * 10 / (2 * 5 * 20))


def test_a_log_says_what_happened_when(tmp_path):
    first = run(tmp_path / "first", [*range(1, 20), *range(10, 41)])  # what was made up to 19 was lost
    second = run(tmp_path / "second", range(1, 16))
    back = run(tmp_path / "back", [*range(1, 10), *range(30, 41)], start=30)
    found = told(first, second, back, {"killed": 15.5, "started again": 25})
    assert [(entry["at_s"], entry["first_group_at_step"]) for entry in found["log"]] == [
        (14.5, 15), (19, 19), (24, 19), (30, 21), (39, 30), (49, 40), (49, 40),
    ]  # fmt: skip
    assert "had made 15 steps" in found["log"][0]["what"] and "at step 10 again" in found["log"][1]["what"]
    assert found["steps_made"] == {"first": 50, "second, killed": 15, "second, back": 20}
    assert reached(first.lines(), 0.5) == 0


def test_one_that_comes_back_too_late_is_told_apart(tmp_path):
    first, second = (run(tmp_path / name, range(1, 5)) for name in "ab")
    with pytest.raises(RuntimeError, match="more steps are needed"):
        told(first, second, second, {})


def test_the_table_has_all_ways_to_train_and_the_log():
    result = json.loads((RESULTS / "diloco.json").read_text())
    table = diloco(result)
    assert all(f"\n| {title} | " in table for title in result["sides"])
    assert table.count(" SIGKILL ") == 1 and "the second has taken over" in table
    assert all(of["equal"] for of in result["sides"].values() if "equal" in of)
