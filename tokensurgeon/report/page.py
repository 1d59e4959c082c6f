"""Write ``report.html``: one self-contained page that says in a minute whether to trust the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from tokensurgeon.report.card import choice_in_words, described, few_anchors, outliers_in_words, warnings
from tokensurgeon.report.loss import digits_would_help, loss_in_words, prediction_in_words
from tokensurgeon.report.loss import level as level_of

__all__ = ["report_page", "verdict"]

_DOUBTS = (
    ("pieces", "Rows that disagree with their own text",
     "The new row is no nearer to the base's rows of the token's own pieces than to those of another token. "
     "The number is the difference of the cosines."),
    ("loud", "Loud rows", "Their mean probability over text that the base reads is above 0.1%."),
    ("norm", "Donor rows of unusual length", "In robust deviations from the donor's median log-norm."),
)  # fmt: skip

_GOOD, _POOR, _FEWEST, _MANY = 0.5, 0.35, 30, 0.01
"""Correlation of held-out anchors with the truth. Real language models reach 0.52 to 0.65, an encoder's rows 0.39 to
0.57; rows half of which are permuted 0.11 to 0.38, and permuted or random ones at most 0.02."""


def report_page(content: Mapping[str, Any], summary: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """HTML.

    Args:
        content: The manifest's content, with ``verified``; as in all of these, texts are fit to be shown.
        summary: `alignment_summary` with coverage and examples.
        details: ``reconstructions``, ``control_tokens`` and ``doubtful``, see `tokensurgeon.transfer.diagnose`.
    """
    return _template().render(
        title=f"{content['base']['name']} with the tokenizer of {content['donor']['name']}",
        method=described(content["method"]) + (", calibrated" if content.get("calibrated") else ""),
        choice=choice_in_words(content["choice"]) if content.get("choice") else "",
        content=content,
        total=sum(content["counts"].values()),
        examples=summary["examples"],
        coverage=summary["coverage"],
        held=content["held_out"],
        details=details,
        doubts=_DOUBTS if details["doubtful"] else (),
        verdict=verdict(content, summary, details),
        notes=warnings(dict(content)),
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["spaces"] = _short_spaces
    return environment.from_string(files("tokensurgeon.report").joinpath("page.html.j2").read_text("utf-8"))


def _short_spaces(token: str) -> str:
    """Long runs of spaces by their length: they cannot be counted by eye."""
    return re.sub(" {4,}", lambda run: f"␣×{len(run[0])}", token)


def verdict(
    content: Mapping[str, Any], summary: Mapping[str, Any], details: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """The page in a few lines, each ``good``, ``watch`` or ``bad``."""
    found = []
    if content.get("loss"):
        found.append((level_of(content["loss"]), "\n".join(loss_in_words(content))))
    elif content.get("prediction"):
        found.append((level_of(content["prediction"]), prediction_in_words(content["prediction"])))
    counts = content["counts"]
    for name, cover in summary["coverage"].items():
        share = cover["anchor_share"]
        level = "good" if share >= 0.95 else "watch" if share >= 0.8 else "bad"
        found.append((level, f"{share:.1%} of the tokens of {name} are the base's own rows; the others are estimates."))
    held = content["held_out"]
    if held and counts["reconstructed"]:
        level = "good" if held["correlation"] >= _GOOD else "watch" if held["correlation"] >= _POOR else "bad"
        if level == "good" and held["anchors"] < _FEWEST:
            level = "watch"
        found.append((level, f"{counts['reconstructed']:,} rows are reconstructed; {held['anchors']} known ones, held "
                             f"out, reach {held['correlation']:.2f} of 1 in what sets a row apart from the mean, and "
                             f"{held['unexplained']:.2f} of the variance is unexplained."))  # fmt: skip
    if few := few_anchors(content):
        found.append(few)
    schemes = {s["kind"]: s for s in content["scheme_differences"]}
    if "numbers" in schemes:
        base, donor = schemes["numbers"]["examples"][0]
        remedy = " Try --numbers base." if digits_would_help(content["numbers"]) else ""
        found.append(("bad", f"Numbers are cut differently ({base} in the base, {donor} in the donor): arithmetic "
                             f"will suffer, whatever the rows.{remedy}"))  # fmt: skip
    if content["numbers"]["changed"]:
        found.append(("good", "Numbers are cut digit by digit, as in the base; the donor makes tokens of several "
                              "digits."))  # fmt: skip
    others = [kind for kind in schemes if kind != "numbers"]
    if others:
        found.append(("watch", f"The tokenizers cut {' and '.join(others)} differently."))
    if not schemes:
        found.append(("good", "Numbers, whitespace and newlines are cut alike."))
    if content["unmapped"]:
        found.append(
            ("watch", f"{len(content['unmapped'])} control tokens have no counterpart in the base, see below.")
        )
    doubtful = details["doubtful"]
    if doubtful and content["method"]["name"] != "subtoken":  # whose rows are made of their own text
        share = doubtful["pieces"]["share"]
        level = "good" if share < 0.05 else "watch" if share < 0.2 else "bad"
        found.append((level, f"{share:.1%} of the new rows disagree with their own text."))
    if (outliers := content.get("outliers")) and (sentences := outliers_in_words(outliers)):
        odd, anchors = outliers["anchors"]["count"], (content.get("learnt_from") or {}).get("anchors", 0)
        level = "bad" if outliers["count"] > _MANY * outliers["of"] or odd > _MANY * anchors else "watch"
        found += [(level, sentence) for sentence in sentences]
    loud = doubtful.get("loud", {"count": 0})["count"]
    if loud:
        remedy = "" if content.get("calibrated") else " Try --calibrate."
        found.append(("watch", f"{loud} new rows are loud: they take probability everywhere.{remedy}"))
    without = sum(tensor.get("without", 0) for tensor in details["reconstructions"].values())
    if without:
        found.append(("watch", f"{without:,} tokens have no vector to go by, and rows that say nothing."))
    found.append(("good", f"{len(content['verified'])} invariants were verified on the written model."))
    return found
