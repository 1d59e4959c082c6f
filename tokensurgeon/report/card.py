"""Write the output's README.md: a model card that says what was done and what to watch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokensurgeon.report.loss import costliest, digits_would_help, loss_in_words, prediction_in_words
from tokensurgeon.report.markdown import code, escaped, front_matter, plain

__all__ = [
    "choice_in_words", "described", "few_anchors", "file_notes", "model_card", "outliers_in_words", "warnings",
]  # fmt: skip


def model_card(content: dict[str, Any]) -> str:
    """Markdown with the front matter that the hub reads.

    Args:
        content: The manifest's content, its texts fit to be shown.
    """
    base, donor = content["base"]["name"], content["donor"]["name"]
    total = sum(content["counts"].values())
    lines = [
        *front_matter(library_name="transformers", tags=["tokensurgeon", "tokenizer-transplant"]),
        f"# {plain(base)} with the tokenizer of {plain(donor)}",
        "",
        f"Body of {code(base)}, tokenizer of {code(donor)}, transplanted without training by tokensurgeon "
        f"{content['versions']['tokensurgeon']} ({escaped(described(content['method']))}"
        f"{', calibrated' if content['calibrated'] else ''}). The licence of the base applies.",
        "",
        *([escaped(choice_in_words(content["choice"])), ""] if content["choice"] else []),
        *_cost(content),
        "## Where the rows come from",
        "",
        "| provenance | rows | share |",
        "|---|---:|---:|",
        *(f"| {name} | {count:,} | {count / total:.1%} |" for name, count in content["counts"].items() if count),
        "",
    ]
    held = content["held_out"]
    if held:
        lines += [
            f"{held['anchors']} anchors, held out and reconstructed as if they were new: cosine "
            f"{held['cosine']:.2f} with the true row ({held['correlation']:.2f} without the mean row in both), "
            f"{held['unexplained']:.2f} of the variance unexplained, "
            f"norm {held['norm_ratio']:.2f} of the true one.",
            "",
        ]
    lines += [
        "## What to watch",
        "",
        *(f"- {escaped(warning)}" for warning in warnings(content) or ["Nothing stood out."]),
        "",
        "`tokensurgeon.json` holds versions, options, hashes and the provenance of every row. "
        "`tokensurgeon evaluate` measures the loss in bits per byte.",
        "",
    ]
    return "\n".join(lines)


def _cost(content: dict[str, Any]) -> list[str]:
    if content.get("loss"):
        sentences = loss_in_words(content)
    elif content.get("prediction"):
        sentences = [prediction_in_words(content["prediction"])]
    else:
        return []
    found = ["## What it costs", "", " ".join(map(escaped, sentences)), ""]
    if content.get("loss") and (most := costliest(content["loss"])):
        found += [f"The costliest tokens: {escaped(', '.join(most))}.", ""]
    return found


def described(method: dict[str, Any]) -> str:
    """A method and its options in a few words."""
    options = ", ".join(f"{name}={value}" for name, value in method.items() if name != "name" and value is not None)
    return f"method {method['name']}" + (f", {options}" if options else "")


def choice_in_words(choice: dict[str, Any]) -> str:
    """Why ``--method auto`` took what it took."""
    shown = [
        f"{described({'name': t['method'], **t['options']})}{', calibrated' if t['calibrated'] else ''} "
        + (t["note"] if t["bits_per_byte"] is None else f"{t['bits_per_byte']:.4f}")
        for t in choice["trials"]
    ]
    return (
        f"Chosen by bits per byte on {choice['n_bytes']:,} bytes of text, with {choice['held_out']:,} known tokens "
        f"reconstructed as if they were new, beside {choice['new']:,} that are: {'; '.join(shown)}."
    )


def few_anchors(content: Mapping[str, Any]) -> tuple[str, str] | None:
    """``watch`` or ``bad`` and a sentence, where a donor and a base share too few tokens to learn from.

    On real models (`benchmarks/LOG.md`), OMP, ridge and FOCUS predict a row's own part with 0.15 to 0.33 from as many
    anchors as the donor has dimensions, with 0.35 to 0.45 from four times as many, with 0.6 from seventy times.
    """
    learnt = content.get("learnt_from")
    if not learnt or learnt["anchors"] >= 4 * learnt["dim"]:
        return None
    return "bad" if learnt["anchors"] < learnt["dim"] else "watch", (
        f"New rows are learnt from {learnt['anchors']:,} shared tokens, few for rows of {learnt['dim']:,} dimensions: "
        f"expect little below {4 * learnt['dim']:,}. `--method subtoken` needs none."
    )


def outliers_in_words(outliers: dict[str, Any]) -> list[str]:
    """Which new rows and anchors were unlike the others, and what was done; nothing where none was.

    Args:
        outliers: As `tokensurgeon.transfer.diagnose.describe_outliers` gives it.
    """
    found = []
    if outliers["count"]:
        signs = {
            "norm": "too long", "distance": "too far from the base's rows", "weight": "one anchor weighs too much",
            "weights": "anchors that cancel each other", "loud": "likely everywhere",
        }  # fmt: skip
        why = ", ".join(f"{count:,} {signs[sign]}" for sign, count in outliers["signs"].items())
        shown = ", ".join(f"{code(token)} ({times:,.3g} times the limit)" for token, _, times in outliers["tokens"][:6])
        more = outliers["count"] - len(outliers["tokens"][:6])
        found.append(
            f"{outliers['count']:,} of {outliers['of']:,} new rows are unlike rows of the base ({why}); they "
            f"were made of the base's rows of their own text instead: {shown}{f' and {more:,} more' if more else ''}."
        )
    if odd := outliers["anchors"]["count"]:
        shown = ", ".join(code(token) for token in outliers["anchors"]["tokens"][:6])
        more = odd - len(outliers["anchors"]["tokens"][:6])
        found.append(
            f"{odd:,} shared tokens have rows of unusual length in the donor, and no new row is made of them: {shown}"
            f"{f' and {more:,} more' if more else ''}."
        )
    return found


def warnings(content: dict[str, Any]) -> list[str]:
    """What a user should know before trusting the model, in sentences with code spans."""
    found = []
    for scheme in content.get("scheme_differences", []):
        base, donor = scheme["examples"][0]
        about_numbers = scheme["kind"] == "numbers"
        loss = " (the main cause of lost arithmetic)" if about_numbers else ""
        tokens = _number_tokens(content["numbers"]) if about_numbers and "numbers" in content else ""
        found.append(
            f"The tokenizers cut {scheme['kind']} differently{loss}, in {scheme['differing']} of "
            f"{scheme['probes']} probes: base {code(base)}, donor {code(donor)}.{tokens}"
        )
    asked = (content.get("options") or {}).get("numbers") == "base"
    if asked and content["numbers"]["changed"]:
        found.append(
            "Numbers are cut digit by digit, as the base was trained to (`--numbers base`), and not as the donor cuts "
            "them. Tokens with several digits take no probability: do not feed ids that the donor's own tokenizer made "
            "(as a target does with its draft model, a teacher with its student)."
        )
    elif asked:
        found.append("`--numbers base` had nothing to do: both tokenizers cut numbers alike.")
    turns = content.get("turns") or {"foreign": []}
    if turns["foreign"]:
        became = {m["token"]: m["became"] for m in turns["markers"]}
        shown = "; ".join(f"{code(token)} is {became.get(token, 'reconstructed')}" for token in turns["foreign"][:6])
        found.append(
            f"The base was not trained on turns like the donor's: {shown}. Expect little of chat before some training."
        )
    found += [
        f"The chat template of {code(name)} could not be used ({problem}): what opens and ends a turn was found by the "
        "names of tokens."
        for name, problem in content.get("templates", [])
    ]
    if few := few_anchors(content):
        found.append(few[1])
    if content.get("outliers"):
        found += outliers_in_words(content["outliers"])
    if content.get("unmapped"):
        shown = ", ".join(code(name) for name in content["unmapped"][:12])
        more = len(content["unmapped"]) - 12
        found.append(
            f"{len(content['unmapped'])} control tokens have no counterpart in the base and were "
            f"reconstructed: {shown}{f' and {more} more' if more > 0 else ''}. Map them with --map if they matter."
        )
    if content.get("silenced"):
        shown = ", ".join(code(name) for name in content["silenced"][:4])
        found.append(
            f"{len(content['silenced'])} control tokens have no counterpart and take no probability "
            f"(padding, placeholders): {shown}{', …' if len(content['silenced']) > 4 else ''}."
        )
    if content.get("bos") == {"base": True, "donor": False}:
        start = content.get("start") or content.get("beginning_token")
        found.append(
            "The base's tokenizer puts BOS before every text, the donor's does not: put "
            f"{f'{code(start)}, which holds its row,' if start else 'bos_token'} before your prompts, or the body "
            "works without what it was trained with."
        )
    elif start := content.get("start"):
        found.append(
            f"The base's texts start with the row of {code(start)}, which the tokenizer does not call BOS: put that "
            "before plain text. Chats start as the template has them."
        )
    if content.get("not_run"):
        found.append(
            f"The model was not run ({content['not_run']}): that it works is not checked, and the row of ids that take "
            "no probability is estimated. `--forward` runs it."
        )
    if content.get("linked"):
        found.append(
            f"{len(content['linked'])} shards are hard links, the same files as the base's: what writes into them in "
            "place changes the base too. `--link copy` makes the model independent."
        )
    found += [f"Removed from {setting}." for setting in content.get("removed_settings", [])]
    return found + file_notes(content)


def file_notes(content: Mapping[str, Any]) -> list[str]:
    """Which files were not taken over, and which are code."""
    found = [f"Left out: {what}." for what in content.get("left_aside", [])]
    if content.get("code"):
        found.append(
            f"Python code of the base lies in here ({', '.join(map(code, content['code']))}). Nothing has read or run "
            "it; transformers runs it if you set trust_remote_code."
        )
    return found


def _number_tokens(numbers: dict[str, Any]) -> str:
    """Which of the donor's tokens it is about that numbers are cut differently, and what can be done."""
    if not numbers["tokens"]:
        return ""
    many = f" {numbers['tokens']:,} of the donor's tokens have several digits, such as {', '.join(numbers['examples'])}"
    if not digits_would_help(numbers):
        return f"{many}."
    return (
        f"{many}: no row can say which digits follow the first. `--numbers base` cuts numbers digit by digit instead."
    )
