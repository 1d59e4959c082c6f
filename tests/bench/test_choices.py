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

    def of(title, **sides):
        return {"title": title, "pair": {"sides": {name: side(mean) for name, mean in sides.items()}}}

    results = [
        {"title": title, "seconds": 7.4, "choice": {"best": {"method": method}}}
        for title, method in (("A", "omp"), ("B", "ridge"), ("C", "focus"), ("D", "omp"), ("E", "omp"))
    ]
    measured = [of(title, **{"omp, k=64": 0.19}) for title in "ABCDE"]
    by_rows = [of(title, **{"ridge": 0.2, "omp, k=8": 0.1}) for title in "ABC"] + [
        of("D", ridge=0.15),
        of("E", ridge=0.3),
    ]
    by_default = [of(title, default=0.21) for title in "AD"]
    lines = table(results, measured, by_rows, by_default).splitlines()
    assert lines[2:7] == [
        "| A | default | +0.210 | OMP k=64 | +0.190 | 7 s |",  # not OMP of all tokens, where the default is known
        "| B | ridge | +0.200 | default | +0.100 | 7 s |",
        "| C | FOCUS |  | default | +0.100 | 7 s |",
        "| D | default | +0.210 | ridge | +0.150 | 7 s |",
        "| E | default |  | OMP k=64 | +0.190 | 7 s |",
    ]
    assert "best on 1 of 3 pairs" in lines[-1]
