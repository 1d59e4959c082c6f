"""What a transplant costs is measured, and split."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import TEXT
from typer.testing import CliRunner

from tokensurgeon import TransplantOptions, evaluate, transplant
from tokensurgeon.cli.app import app
from tokensurgeon.evaluation.loss import BasePiece, Unit, describe_loss, units_of
from tokensurgeon.report.loss import advice, level, loss_in_words


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "some.txt"
    path.write_text(TEXT[:4000], "utf-8")
    return path


@pytest.fixture(scope="module")
def made(zoo, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("loss") / "out"
    return transplant(str(zoo["gpt"]), str(zoo["spm"]), out, TransplantOptions(k=8, text=(str(text),)))


def test_bits_per_byte_are_those_of_evaluate(made, zoo, text):
    loss = made.content["loss"]
    scored = {"some": text.read_text("utf-8")}
    for side, model in (("base", zoo["gpt"]), ("transplant", made.out)):
        alone = evaluate(str(model), scored)["texts"]["some"]
        assert loss["bits_per_byte"][side] == pytest.approx(alone["bits_per_byte"], rel=1e-3), side  # bfloat16
        assert loss["bytes"] == alone["bytes"]
    groups = evaluate(str(made.out), scored)["texts"]["some"]["groups"]
    assert groups["new"]["tokens"] > 20  # or nothing is tested


def test_parts_add_up(made):
    loss = made.content["loss"]
    assert "prediction" not in made.content  # what is measured need not be predicted
    bits = loss["bits_per_byte"]
    assert loss["loss"] == pytest.approx(bits["transplant"] - bits["base"])
    assert loss["segmentation"] == pytest.approx(bits["forced"] - bits["base"])
    assert loss["segmentation"] + loss["new"] + loss["shared"] == pytest.approx(loss["loss"])
    for split in ("units", "writing"):
        assert sum(part["loss"] for part in loss[split].values()) == pytest.approx(loss["loss"]), split
    assert sum(part["bytes"] for part in loss["writing"].values()) == pytest.approx(1)
    assert {"words", "white space", "punctuation"} <= set(loss["writing"])
    assert {kind for kind, unit in loss["units"].items() if unit["count"]} >= {"whole", "split", "joined"}
    assert 0 < loss["interval"] < 2
    assert loss["costliest"][0]["loss"] >= loss["costliest"][-1]["loss"] > 0 and len(loss["costliest"]) == 20


def test_the_same_tokenizer_costs_nothing_and_splits_nothing(zoo, text, tmp_path):
    report = transplant(str(zoo["gpt"]), str(zoo["gpt"]), tmp_path / "out", TransplantOptions(text=(str(text),)))
    loss = report.content["loss"]
    assert loss["loss"] == loss["segmentation"] == loss["new"] == 0 == loss["interval"]
    assert {kind for kind, unit in loss["units"].items() if unit["count"]} == {"whole"}


def test_units_of_a_text():
    """The base has ab|c|de|f|g, the donor a|b|c|def|g: split, whole, joined, whole."""
    piece = BasePiece(7, [0, 1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0, 5.0], [10, 11, 12, 13, 14],
                      [1.5, 2.5, 3.5, 4.5, 5.5], ([0, 1, 3, 4], [1, 2, 3, 4]))  # fmt: skip
    spelled = [b""] * 10 + [b"a", b"b", b"7", b"def", b" "]
    units = list(units_of(piece, [10.0, 20.0, 30.0, 40.0, 50.0], spelled))
    assert [(unit.kind, unit.data, unit.base, unit.donor) for unit in units] == [
        ("split", b"ab", 1.0, (10, 11)), ("whole", b"7", 2.0, (12,)), ("joined", b"def", 7.0, (13,)),
        ("whole", b" ", 5.0, (14,)),
    ]  # fmt: skip
    assert units[0].forced == (1.5, 2.5) and units[0].transplant == (10.0, 20.0)
    told = describe_loss(units, 7, lambda i: i == 13, str)
    assert told["split"] == {"first_nats": 10.0, "inside_nats": 20.0, "inside_tokens": 1, "base_nats": 1.0}
    assert told["costliest"][0] == {"tokens": ["14"], "count": 1, "loss": pytest.approx(45 / 7 / 0.693147, rel=1e-4)}
    assert told["new"] == pytest.approx((40 - 4.5) / 7 / 0.693147, rel=1e-4)
    written = {kind: (7 * of["bytes"], 7 * 0.693147 * of["loss"]) for kind, of in told["writing"].items()}
    assert written == {
        kind: pytest.approx(of, rel=1e-4)
        for kind, of in {"words": (5, 29 + 33), "numbers": (1, 28), "white space": (1, 45)}.items()
    }


def test_what_is_behind_the_last_meeting_counts_too():
    piece = BasePiece(3, [0, 1], [1.0, 2.0], [5, 6, 7], [1.0, 1.0, 1.0], ([0], [0]))
    units = list(units_of(piece, [1.0, 1.0, 1.0], [b"a"] * 8))
    assert [(unit.kind, unit.base) for unit in units] == [("whole", 1.0), ("split", 2.0)]
    mixed = BasePiece(3, [0, 1, 2], [1.0, 2.0, 3.0], [5, 6], [1.0, 1.0], ([], []))
    assert [unit.kind for unit in units_of(mixed, [1.0, 1.0], [b"a"] * 8)] == ["mixed"]


def test_the_interval_holds_the_loss_of_other_text():
    """Of 200 texts whose units lose 1 nat on average, about 95% of the intervals hold it."""
    generator, inside = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        lost = (1 + 2 * torch.randn(240, generator=generator)).tolist()
        told = describe_loss([Unit("whole", b"word", (1,), 0.0, (0.0,), (x,)) for x in lost], 960, bool, str)
        inside += abs(told["loss"] - 1 / (4 * 0.693147)) < told["interval"]
    assert 175 <= inside <= 199


def test_it_is_told_everywhere_or_left_out(zoo, tmp_path):
    words = ["transplant", str(zoo["gpt"]), str(zoo["spm"]), "--k", "4", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    loss = json.loads((tmp_path / "out/tokensurgeon.json").read_text())["loss"]
    figure = f"{loss['loss']:+.3f} bits per byte"
    assert figure in done.stdout
    assert figure in (tmp_path / "out/README.md").read_text() and figure in (tmp_path / "out/report.html").read_text()
    page = (tmp_path / "out/report.html").read_text()
    assert all(f"<span>{kind}, " in page for kind in loss["writing"])
    assert "The costliest tokens" in page
    card = (tmp_path / "out/README.md").read_text()
    assert card.count(" ×, ") == len(loss["costliest"]) > 0
    done = CliRunner().invoke(app, [*words, "--overwrite", "--no-score"])
    assert "loss" not in json.loads((tmp_path / "out/tokensurgeon.json").read_text())
    assert done.exit_code == 0 and "bits per byte" not in done.stdout
    done = CliRunner().invoke(app, [*words, "--overwrite", "--no-forward"])
    assert done.exit_code == 0 and "loss" not in json.loads((tmp_path / "out/tokensurgeon.json").read_text())


def test_a_text_is_scored_by_its_middle(zoo, tmp_path):
    (tmp_path / "text").write_text("word " * 2000 + "1234 " * 2000 + "word " * 2000)
    words = ["transplant", str(zoo["gpt"]), str(zoo["spm"]), "--k", "4", "--text", str(tmp_path / "text")]
    assert CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")]).exit_code == 0
    writing = json.loads((tmp_path / "out/tokensurgeon.json").read_text())["loss"]["writing"]
    assert "numbers" in writing and "words" not in writing


def content(loss, segmentation, new, shared, split=None, **more):
    kinds = {"whole": loss - (split or 0), "split": split or 0, "joined": 0.0, "mixed": 0.0}
    return {
        "loss": {
            "text": "some text", "bytes": 4000, "loss": loss, "interval": 0.01, "segmentation": segmentation,
            "new": new, "shared": shared, "bits_per_byte": {"base": 1.0, "forced": 1.0, "transplant": 1.0 + loss},
            "units": {kind: {"count": 9, "loss": value} for kind, value in kinds.items()},
            "split": {"first_nats": 5.0, "inside_nats": 6.6, "inside_tokens": 12, "base_nats": 4.0}, "costliest": [],
            "writing": {"words": {"bytes": 0.9, "loss": 0.7 * loss}, "numbers": {"bytes": 0.1, "loss": 0.3 * loss}},
        },
        "scheme_differences": [],
    } | more  # fmt: skip


def test_what_to_do_follows_from_where_the_loss_is():
    assert "nothing needs to be done" in advice(content(0.012, 0.01, 0.0, 0.002))
    assert "heal (15 minutes" in advice(content(0.15, 0.05, 0.05, 0.05))
    assert "which teaches the new cuts" in advice(content(0.15, 0.14, 0.005, 0.005, split=0.13))
    assert "which trains the rows of new tokens" in advice(content(0.12, 0.02, 0.09, 0.01, split=0.02))
    numbers = {"numbers": {"digit_by_digit": {"base": True, "donor": False}, "changed": False},
               "scheme_differences": [{"kind": "numbers"}]}  # fmt: skip
    for loss in (0.2, 0.012):  # also where the rest is well
        told = advice(content(loss, loss, 0.0, 0.0, **numbers))
        assert "--numbers base" in told and "nothing" not in told


def test_text_that_does_not_tell_a_loss_from_none_is_no_good_news():
    few = content(0.3, 0.2, 0.1, 0.0)
    for interval in (0.35, None):
        few["loss"]["interval"] = interval
        assert "too little text" in advice(few) and level(few["loss"]) == "watch"
    few["loss"]["interval"] = 0.29
    assert "heal" in advice(few) and level(few["loss"]) == "bad"
    gain = content(-0.01, -0.01, 0.0, 0.0)
    gain["loss"]["interval"] = 0.05
    assert "nothing needs to be done" in advice(gain) and level(gain["loss"]) == "good"


def test_the_loss_in_words():
    told = " ".join(loss_in_words(content(0.15, 0.14, 0.005, 0.005, split=0.13)))
    assert "+0.150 bits per byte (95%: ±0.010)" in told
    assert "one costs the base 4.0 nats; its first piece costs 5.0, each piece inside 6.6." in told
    assert "with the same tokenizer" not in told and "costliest" not in told
    lost = content(0.15, 0.14, 0.005, 0.005)
    lost["loss"]["costliest"] = [{"tokens": ["' '", f"'{i}'"], "count": i, "loss": 0.1} for i in range(5)]
    assert "The costliest: ' ' '0' (0 ×, +0.100), ' ' '1' (1 ×, +0.100), ' ' '2' (2 ×, +0.100). What" in " ".join(
        loss_in_words(lost)
    )
    assert "It falls hardest on numbers (30% of the loss, 10% of the text)." in told
    assert "hardest" not in " ".join(loss_in_words(content(0.012, 0.01, 0.0, 0.002)))
