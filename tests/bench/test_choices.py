"""What is chosen without making all rows is what a whole command chooses, and the table puts losses beside it."""

from __future__ import annotations

import json

from benchmarks.common import models
from benchmarks.experiments import choices
from benchmarks.tables.four_models import choices as table
from tokensurgeon import TransplantOptions, transplant


def test_the_choice_is_that_of_the_whole_command(zoo, tmp_path, monkeypatch):
    for name in ("gpt", "spm"):
        monkeypatch.setattr(models, name, lambda name=name: zoo[name], raising=False)
    (tmp_path / "others.toml").write_text('sides = {}\n[pairs.a]\ntitle = "A"\nbase = "gpt"\ndonor = "spm"\n')
    (tmp_path / "some.toml").write_text('pairs_of = "others.toml"\nminutes = 60\n')
    choices.main(tmp_path / "some.toml", ["a"], tmp_path)
    result = json.loads((tmp_path / "some_a.json").read_text())
    whole = transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", TransplantOptions(method="auto"))
    assert result["title"] == "A" and result["minutes"] == 60 and result["seconds"] > 0

    def told(choice):
        return {trial["method"]: trial["bits_per_byte"] for trial in choice["trials"]}

    assert told(result["choice"]) == told(whole.content["choice"]) and len(told(result["choice"])) == 3


def test_the_table_has_what_was_run_whole_and_counts_what_is_within_the_interval():
    def side(mean):
        return {"loss": {"mean": mean, "interval": [mean - 0.02, mean + 0.02]}}

    def taken(title, method, **options):
        return {"title": title, "choice": {"best": {"method": method, "options": options}}}

    results = [taken("A", "omp", k=8), taken("B", "ridge"), taken("C", "focus"), taken("D", "omp", k=8)]
    rows = {"ridge": side(0.2), "omp, k=8": side(0.1)}
    measured = [{"title": title, "pair": {"sides": rows}} for title in "ABCD"]
    found = {"A": side(0.21), "B": side(0.17), "D": side(0.23)}
    default = [{"title": title, "pair": {"sides": {"default": of}}} for title, of in found.items()]
    lines = table(results, measured, default).splitlines()
    assert lines[2:6] == [
        "| A | omp, k=8 | +0.210 | ridge | +0.200 | +0.010 |",
        "| B | ridge | +0.200 | omp, k=8 | +0.170 | +0.030 |",
        "| C | focus |  | ridge | +0.200 |  |",
        "| D | omp, k=8 | +0.230 | ridge | +0.200 | +0.030 |",
    ]
    assert "best on 1 of 3 pairs" in lines[-1]
