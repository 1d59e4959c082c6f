"""Donors are compared by their tokenizers alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import TEXT
from typer.testing import CliRunner

from tokensurgeon import InputError, TransplantOptions, compare, transplant
from tokensurgeon.cli.app import app

runner = CliRunner(env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "some.txt"
    path.write_text(TEXT[:4000], "utf-8")
    return path


def test_its_own_tokenizer_costs_a_base_least(zoo, text):
    told = []
    found = compare(str(zoo["gpt"]), [str(zoo["spm"]), str(zoo["untied"])], [text], lambda *of: told.append(of))
    assert [one["donor"] for one in found] == [str(zoo["untied"]), str(zoo["spm"])]  # untied: the base's tokenizer
    own, other = found
    assert own["loss"] == 0 and own["shared"] == 1 and own["tokens"] == own["base_tokens"]
    assert own["bytes"] == text.stat().st_size and not own["cut_differently"]
    assert (
        other["loss"] > other["interval"] / 2 > 0 < other["of_bytes"]["new"]
        and "whitespace" in other["cut_differently"]
    )
    assert [done for _, done, _ in told] == [1, 2]


def test_a_donor_that_is_not_there_ends_it(zoo, text):
    with pytest.raises(InputError, match="nowhere"):
        compare(str(zoo["gpt"]), [str(zoo["spm"]), str(text.parent / "nowhere")], [text])


def test_the_table_and_json_say_the_same(zoo, text):
    words = ["compare", *(str(zoo[name]) for name in ("gpt", "spm", "untied")), "--text", str(text)]
    content = json.loads(runner.invoke(app, [*words, "--json"]).stdout)
    shown = runner.invoke(app, words)
    assert content["base"] == str(zoo["gpt"]) and shown.exit_code == 0
    printed = shown.stdout.splitlines()
    names = [Path(one["donor"]).name for one in content["donors"]]
    lines = [next(line for line in printed if line.split()[:1] == [name]) for name in names]
    assert lines == [line for line in printed if any(line == other for other in lines)]  # in order
    for one, line, name in zip(content["donors"], lines, names, strict=True):
        assert f"{one['loss']:.3f} ±{one['interval']:.3f}" in line and f"{one['tokens']:,}" in line
        kinds = ", ".join(one["cut_differently"])
        assert f"{name} cuts differently: {kinds}" in printed if kinds else f"{name} cuts" not in shown.stdout
    assert runner.invoke(app, [*words, "--quiet"]).output == ""


def test_align_predicts_the_same(zoo, text):
    found = compare(str(zoo["gpt"]), [str(zoo["spm"])], [text])[0]
    words = ["align", str(zoo["gpt"]), str(zoo["spm"]), "--text", str(text)]
    prediction = json.loads(runner.invoke(app, [*words, "--json"]).stdout)["predictions"][0]
    assert prediction == {name: found[name] for name in prediction}
    shown = " ".join(runner.invoke(app, words).stdout.split())
    assert f"{found['loss']:+.3f} bits per byte (90%: ±{found['interval']:.3f}) on 4.0 kB of some.txt" in shown


def test_a_transplant_that_is_not_run_predicts(zoo, text, tmp_path):
    """Where nobody wants to know, nothing is predicted, nor for methods that do not go by the donor."""

    def predicted(**options):
        asked = TransplantOptions(text=(str(text),), **options)
        return transplant(str(zoo["gpt"]), str(zoo["spm"]), tmp_path / "out", asked, overwrite=True).content

    found = predicted(k=8, forward=False)
    expected = compare(str(zoo["gpt"]), [str(zoo["spm"])], [text])[0]
    assert found["prediction"]["loss"] == pytest.approx(expected["loss"]) and "loss" not in found
    words = f"predicted from the tokenizers alone: {expected['loss']:+.3f} bits per byte"
    assert words in (tmp_path / "out/report.html").read_text() and words in (tmp_path / "out/README.md").read_text()
    for options in ({"k": 8, "forward": False, "score": False}, {"method": "mean", "forward": False}):
        assert "prediction" not in predicted(**options), options
