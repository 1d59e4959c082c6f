"""The report: what is on it is what was done."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import ClassVar

import pytest
import torch

from tokensurgeon import TransplantOptions, transplant
from tokensurgeon.alignment import Provenance
from tokensurgeon.checkpoint import Checkpoint
from tokensurgeon.report.card import described
from tokensurgeon.report.page import report_page, verdict
from tokensurgeon.solver.omp import solve_omp
from tokensurgeon.transfer.diagnose import doubtful_tokens, histogram, reconstructions
from tokensurgeon.transfer.rows import NewRows, VocabularyMatrices

CONTENT = {
    "versions": {"tokensurgeon": "0"}, "method": {"name": "omp", "k": 2}, "base": {"name": "<b>", "rows": 10},
    "donor": {"name": "d"}, "counts": {"copied": 8, "reconstructed": 2}, "held_out": None, "scheme_differences": [],
    "unmapped": [], "silenced": [], "verified": {"shape": "good"}, "bos": {"base": False, "donor": False},
    "numbers": {"digit_by_digit": {"base": True, "donor": True}, "changed": False, "tokens": 0, "examples": []},
}  # fmt: skip
DETAILS = {"reconstructions": {}, "control_tokens": [], "doubtful": {}}


class Balanced(HTMLParser):
    """Refuses elements that are not closed, and whatever loads something."""

    open: ClassVar[list[str]] = []

    def handle_starttag(self, tag, attrs):
        assert not {"src", "href"} & {name for name, _ in attrs}, f"{tag} loads something"
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("base", "donor", "options"),
    [
        ("gpt", "spm", TransplantOptions(k=8)),
        ("untied", "untied-spm", TransplantOptions(k=8)),
        ("gpt", "spm", TransplantOptions(method="ridge")),
        ("gpt", "spm", TransplantOptions(method="subtoken")),
        ("gpt", "gpt", TransplantOptions(k=1)),
    ],
)
def test_every_transplant_writes_a_page(zoo, tmp_path, base, donor, options):
    report = transplant(str(zoo[base]), str(zoo[donor]), tmp_path / "out", options)
    page = (report.out / "report.html").read_text()
    parser = Balanced()
    parser.feed(page)
    assert not parser.open and "http" not in page and "url(" not in page
    for name, count in report.content["counts"].items():
        assert (f'<td>{name}</td><td class="n">{count:,}</td>' in page) == (count > 0), name
    assert page.count('<div class="histogram"') == len(report.content["residual"])
    for check in report.checks:
        assert check.name in page


def test_text_is_escaped():
    page = report_page(
        CONTENT, {"examples": {"copied": ["<script>", "'\\n" + 13 * " " + "'"]}, "coverage": {}}, DETAILS
    )
    assert "\\n␣×13" in page and "<script>" not in page and "&lt;script&gt;" in page and "&lt;b&gt; with" in page


def test_the_verdict_follows_the_figures():
    def levels(content=None, cover=1.0, doubtful=None):
        summary = {"examples": {}, "coverage": {"t": {"anchor_share": cover}}}
        return [
            level for level, _ in verdict(CONTENT | (content or {}), summary, DETAILS | {"doubtful": doubtful or {}})
        ]

    assert levels() == ["good", "good", "good"]
    assert levels(cover=0.9)[0] == "watch" and levels(cover=0.5)[0] == "bad"
    held = {"anchors": 90, "cosine": 0.97, "correlation": 0.1, "unexplained": 1.7, "norm_ratio": 1.0, "rank": 3.0}
    assert levels({"held_out": held})[1] == "bad" and levels({"held_out": held | {"correlation": 0.6}})[1] == "good"
    assert levels({"held_out": held | {"correlation": 0.6, "anchors": 9}})[1] == "watch"  # nine say little
    few = {"learnt_from": {"anchors": 100, "dim": 64}}
    assert levels(few)[1] == "watch" and levels({"learnt_from": {"anchors": 10, "dim": 64}})[1] == "bad"
    assert levels({"learnt_from": {"anchors": 256, "dim": 64}}) == levels()
    odd = {"count": 1, "of": 900, "signs": {"loud": 1}, "tokens": [["'x'", "loud", 7.0]], "ids": [5],
           "anchors": {"count": 0, "tokens": [], "ids": []}}  # fmt: skip
    assert levels({"outliers": odd})[2] == "watch" and levels({"outliers": odd | {"of": 9}})[2] == "bad"
    assert levels({"outliers": odd | {"count": 0}}) == levels()
    scheme = {"kind": "numbers", "differing": 3, "probes": 9, "examples": [["4 2", "42"]]}
    assert levels({"scheme_differences": [scheme]})[1] == "bad"
    assert levels({"numbers": CONTENT["numbers"] | {"changed": True}}).count("good") == 4
    assert levels({"unmapped": ["<x>"]})[2] == "watch"
    assert levels(doubtful={"pieces": {"share": 0.5}, "loud": {"count": 1}})[2:4] == ["bad", "watch"]


def test_a_histogram_counts_every_residual():
    counts = histogram(torch.tensor([0.0, 0.049, 0.051, 0.5, 0.999, 1.0, 7.0]))
    assert len(counts) == 20 and counts[0] == 2 and counts[1] == 1 and counts[10] == 1 and counts[19] == 3


@pytest.fixture(scope="module")
def made(zoo, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    report = transplant(str(zoo["gpt"]), str(zoo["spm"]), out, TransplantOptions(k=8))
    return report, VocabularyMatrices(Checkpoint.open(zoo["spm"]).read("model.embed_tokens.weight"))


def test_the_worst_tokens_are_the_worst(made):
    report, donor = made
    plan = report.alignment.plan
    targets, anchors = donor.embedding[torch.from_numpy(plan.ids(Provenance.RECONSTRUCTED))], plan.anchors
    solved = solve_omp(targets, donor.embedding[torch.from_numpy(anchors)], 8)
    rows = NewRows(donor, {"embedding": solved}, torch.from_numpy(plan.source[anchors]))
    norms = {"embedding": targets.norm(dim=1)}
    shown = reconstructions(report.base.vocabulary, report.donor.vocabulary, plan, rows, norms)["embedding"]
    relative = solved.residual / norms["embedding"]
    worst = int(relative.argmax())
    assert shown["worst"][0]["id"] == plan.ids(Provenance.RECONSTRUCTED)[worst]
    assert shown["worst"][0]["residual"] == pytest.approx(float(relative.max()), abs=1e-4)
    top = int(solved.values[worst].abs().argmax())
    name = report.base.vocabulary.describe(int(rows.atoms[solved.indices[worst, top]]))
    assert shown["worst"][0]["atoms"][0] == [name, pytest.approx(float(solved.values[worst, top]), abs=1e-3)]
    assert len(shown["worst"]) == 20 and sum(shown["histogram"]) == len(targets)
    assert {t["id"] for t in shown["typical"]}.isdisjoint(t["id"] for t in shown["worst"])


@pytest.mark.parametrize("chunk", [4096, 8])
def test_a_planted_token_is_found(made, chunk, monkeypatch):
    """A donor row of ten times the length, and a new row that is another token's."""
    monkeypatch.setattr("tokensurgeon.transfer.diagnose._CHUNK", chunk)
    report, donor = made
    plan, base = (
        report.alignment.plan,
        VocabularyMatrices(torch.randn(600, 16, generator=torch.Generator().manual_seed(0))),
    )
    targets = plan.ids(Provenance.RECONSTRUCTED)
    pieces = [[i % 600, (i * 7) % 600] for i in range(len(targets))]
    new = torch.zeros(plan.n_rows, 16)
    for target, own in zip(targets, pieces, strict=True):
        new[target] = base.embedding[own].mean(dim=0)
    clean = doubtful_tokens(
        report.donor.vocabulary, plan, NewRows(VocabularyMatrices(new), {}, torch.empty(0)), base, donor, pieces, None
    )
    assert clean["pieces"]["count"] == 0 and clean["norm"]["count"] == 0
    planted, victim = int(targets[5]), int(targets[9])
    new[planted] = -new[planted]
    stretched = donor.embedding.clone()
    stretched[victim] *= 100
    rows = NewRows(VocabularyMatrices(new), {}, torch.empty(0))
    found = doubtful_tokens(report.donor.vocabulary, plan, rows, base, VocabularyMatrices(stretched), pieces, None)
    assert [t for t, _ in found["pieces"]["tokens"]] == [report.donor.vocabulary.describe(planted)]
    assert [t for t, _ in found["norm"]["tokens"]] == [report.donor.vocabulary.describe(victim)]
    assert not re.search("loud", str(found))


def test_one_new_token_is_compared_with_nothing(made):
    report, donor = made
    plan = report.alignment.plan
    provenance = plan.provenance.copy()
    provenance[plan.ids(Provenance.RECONSTRUCTED)[1:]] = Provenance.PADDING
    alone = replace(plan, provenance=provenance)
    base = VocabularyMatrices(torch.randn(600, 16, generator=torch.Generator().manual_seed(0)))
    rows = NewRows(VocabularyMatrices(torch.randn(plan.n_rows, 16)), {}, torch.empty(0))
    found = doubtful_tokens(report.donor.vocabulary, alone, rows, base, donor, [[1, 2]], None)
    assert found["pieces"]["of"] == 1 and found["pieces"]["count"] == 0


def test_an_option_that_is_left_to_the_method_is_not_named():
    assert described({"name": "ridge", "penalty": None}) == "method ridge"
    assert described({"name": "ridge", "penalty": 0.0}) == "method ridge, penalty=0.0"
