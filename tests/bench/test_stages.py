"""The experiment on where time goes, at a small size."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.experiments import stages
from benchmarks.tables.stages import stages as table

SETTINGS = """
repeats = 2
[commands]
ours = ["{python}", "-m", "tokensurgeon", "{{base}}", "{{donor}}", "-o", "{{out}}", "--method", "subtoken", "-q"]
peer = ["{python}", "-c", "import sys; __import__('pathlib').Path(sys.argv[1]).mkdir()", "{{out}}"]
[[pairs]]
title = "one pair"
base = "{base}"
donor = "{donor}"
commands = ["ours", "peer"]
"""


@pytest.mark.slow
def test_commands_are_measured_and_tabled(zoo, tmp_path):
    """Ours by stages; a peer, which writes no manifest, as a whole."""
    settings = SETTINGS.format(python=sys.executable, base=zoo["gpt"], donor=zoo["spm"])
    (tmp_path / "stages.toml").write_text(settings)
    stages.main(tmp_path / "stages.toml", tmp_path)
    result = json.loads((tmp_path / "stages.json").read_text())
    ours, peer = (result["pairs"]["one pair"][name] for name in ("ours", "peer"))
    assert len(ours["runs"]) == 2 and ours["median_peak_mib"] > peer["median_peak_mib"] and not peer["stages"]
    assert {"aligning", "verifying", "other"} <= {stage["stage"] for stage in ours["stages"]}
    shown = table(result)
    assert f"| one pair | ours | {ours['median_wall_s']:.0f} s |" in shown and "\n| verifying | " in shown
    assert "one pair, peer" not in shown
