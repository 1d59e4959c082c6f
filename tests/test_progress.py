"""Where time went."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tokensurgeon import progress
from tokensurgeon.cli.app import app
from tokensurgeon.progress import Clock


def test_seconds_of_stages_add_up_to_all(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 3.5, 4.0, 5.0, 8.0, 9.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    clock = Clock()
    for stage in ("a", "b", "a"):
        with clock(stage):
            pass
    stages = clock.stages()
    assert [(stage["stage"], stage["seconds"]) for stage in stages] == [("a", 5.0), ("b", 0.5), ("other", 3.5)]
    peaks = [stage["peak_mib"] for stage in stages]
    assert 50 <= peaks[0] <= peaks[-1]


def test_a_stage_that_fails_is_measured_too():
    clock = Clock()
    with pytest.raises(ValueError, match="broken"), clock("a"):
        raise ValueError("broken")
    assert clock.stages()[0]["stage"] == "a"


def test_the_command_shows_where_time_went(zoo, tmp_path):
    words = ["transplant", str(zoo["gpt"]), str(zoo["spm"]), "--k", "4", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--profile"])
    content = json.loads((tmp_path / "out/tokensurgeon.json").read_text())
    names = [stage["stage"] for stage in content["stages"]]
    assert done.exit_code == 0 and all(name in done.stdout for name in names)
    assert {"making rows", "calibrating", "verifying"} <= {*names}
    assert sum(stage["seconds"] for stage in content["stages"]) == pytest.approx(content["seconds"], abs=0.2)
    done = CliRunner().invoke(app, [*words, "--overwrite", "--profile", "--dry-run"])
    assert done.exit_code == 2 and "Leave out --dry-run" in done.stderr
    assert "where time went" not in CliRunner().invoke(app, [*words, "--overwrite"]).stdout
