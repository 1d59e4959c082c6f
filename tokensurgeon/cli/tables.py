"""Print results on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tokensurgeon.report.card import choice_in_words, warnings
from tokensurgeon.report.loss import loss_in_words, prediction_in_words

if TYPE_CHECKING:
    from tokensurgeon.readiness import Rule
    from tokensurgeon.surgery.transplant import TransplantReport
    from tokensurgeon.verification.running import Check

__all__ = [
    "print_alignment",
    "print_checks",
    "print_comparison",
    "print_draft_lengths",
    "print_drafts",
    "print_evaluation",
    "print_rules",
    "print_stages",
    "print_transplant",
]


def print_alignment(console: Console, base: str, donor: str, summary: Mapping[str, Any]) -> None:
    """Counts with examples, coverage, and warnings."""
    total = sum(summary["counts"].values())
    table = Table(title=f"{escape(donor)}'s tokens on {escape(base)}", title_justify="left")
    table.add_column("provenance")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    table.add_column("examples", overflow="fold")
    for name, count in summary["counts"].items():
        examples = "  ".join(summary["examples"].get(name, []))
        table.add_row(name, f"{count:,}", f"{count / max(1, total):.1%}", escape(examples))
    console.print(table)
    for name, cover in summary["coverage"].items():
        new = "  ".join(cover["most_frequent_new"])
        console.print(
            f"{escape(name)}: {cover['anchor_share']:.1%} of {cover['tokens']:,} donor tokens are anchors "
            f"({cover['anchor_share_of_types']:.1%} of types); most frequent new ones: {escape(new)}"
        )
    for prediction in summary.get("predictions", ()):
        console.print(escape(prediction_in_words(prediction)))
    _print_warnings(console, summary)


def print_comparison(console: Console, base: str, found: Sequence[Mapping[str, Any]]) -> None:
    """One line a donor, the one that costs least first."""
    first, names = found[0], short_names([one["donor"] for one in found])
    table = Table(
        title=f"tokenizers for {escape(base)}, on {first['bytes'] / 1000:.1f} kB of {escape(first['text'])}, which are "
        f"{first['base_tokens']:,} tokens of its own",
        title_justify="left",
        caption="shared: of its tokens, those that the base has. split, joined, across: share of the bytes in tokens "
        "of the base that it cuts into pieces, joins, or cuts across; new: in tokens that the base has not. Expected "
        "loss: bits per byte, from what other pairs lost; donors nearer than that are not told apart, and "
        "`tokensurgeon BASE DONOR` measures it. Numbers that are cut differently cost arithmetic beside that.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,  # narrow: a terminal of 80 columns has room for names beside seven numbers
        padding=(0, 1, 0, 0),
    )
    for title in ("donor", "tokens", "shared", "split", "joined", "across", "new", "expected loss"):
        numeric = title != "donor"
        table.add_column(title, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for one, name in zip(found, names, strict=True):
        shares = (f"{one['of_bytes'][kind]:.1%}" for kind in ("split", "joined", "mixed", "new"))
        table.add_row(
            escape(name), f"{one['tokens']:,}", f"{one['shared']:.1%}", *shares,
            f"{one['loss']:.3f} ±{one['interval']:.3f}",
        )  # fmt: skip
    console.print(table)
    for one, name in zip(found, names, strict=True):
        if one["cut_differently"]:
            console.print(f"{escape(name)} cuts differently: {', '.join(one['cut_differently'])}")


def short_names(names: Sequence[str]) -> list[str]:
    """The last parts of paths, or of hub ids, as many as tell them apart.

    >>> short_names(["/models/a/instruct", "/models/b/instruct", "org/c/"])
    ['a/instruct', 'b/instruct', 'c']
    """
    parts = [tuple(part for part in name.split("/") if part) for name in names]
    found = []
    for name, own in zip(names, parts, strict=True):
        others = [other for other in parts if other != own]
        n = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own))
        found.append("/".join(own[-n:]) if 0 < n < len(own) else name)
    return found


def print_transplant(console: Console, report: TransplantReport, profile: bool = False) -> None:
    """What was written (or would be), what it is made of, what to watch; where time went, if asked for."""
    print_alignment(console, report.base.name, report.donor.name, report.summary | report.content)
    content = report.content
    if report.out is None:
        if content.get("prediction"):
            console.print(escape(prediction_in_words(content["prediction"])))
        console.print("dry run: nothing was written")
        return
    held = content["held_out"]
    if content["choice"]:
        console.print(escape(choice_in_words(content["choice"])))
    for name, residual in content["residual"].items():
        if residual:
            console.print(
                f"{name}: residual {residual['p50']:.3g} (median), {residual['mean_atoms']:.0f} atoms a token"
            )
    if held:
        console.print(
            f"held-out anchors: cosine {held['cosine']:.2f} ({held['correlation']:.2f} without the mean), "
            f"unexplained variance {held['unexplained']:.2f}, "
            f"norm ratio {held['norm_ratio']:.2f}"
        )
    if profile:
        print_stages(console, content["stages"])
    console.print(f"{len(report.checks)} invariants verified in {content['seconds']:.0f} s in all")
    for sentence in loss_in_words(content) if content.get("loss") else ():
        console.print(escape(sentence))
    if content.get("prediction"):
        console.print(escape(prediction_in_words(content["prediction"])))
    console.print(f"[bold]{escape(str(report.out))}[/bold] is ready; report.html inside says how far to trust it")


def print_stages(console: Console, stages: Sequence[Mapping[str, Any]]) -> None:
    """Seconds and memory of the stages, in their order."""
    table = Table(title="where time went", title_justify="left")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("most memory until then", justify="right")
    for stage in stages:
        peak = "" if stage["peak_mib"] is None else f"{stage['peak_mib']:,} MiB"
        table.add_row(stage["stage"], f"{stage['seconds']:.1f}", peak)
    console.print(table)


def print_draft_lengths(
    console: Console, greedy: Mapping[int, tuple[float, float]], sampled: Mapping[int, tuple[float, float]]
) -> None:
    """Tokens a pass and predicted speed, one line a draft length."""
    table = Table(title="predicted in transformers, on this device", title_justify="left")
    for title in ("tokens drafted", "tokens a pass, greedy", "speed-up", "tokens a pass, sampled", "speed-up"):
        table.add_column(title, justify="right")
    for length, pairs in ((length, (greedy[length], sampled[length])) for length in greedy):
        cells = (cell for gained, speed_up in pairs for cell in (f"{gained:.2f}", f"{speed_up:.2f} ×"))
        table.add_row(str(length), *cells)
    console.print(table)


def print_checks(console: Console, checks: Sequence[Check]) -> None:
    """One line a check; a note is what could not be checked, or only in part."""
    for check in checks:
        mark = "[red]FAIL[/red]" if not check.ok else "[yellow]note[/yellow]" if check.note else "[green]ok[/green]  "
        console.print(f"{mark} {escape(check.name)}: {escape(check.detail)}")


def print_drafts(console: Console, found: Mapping[str, Any]) -> None:
    """Acceptance and speed, one line a side and mode; the last column says whether the text is the target's."""
    table = Table(title="speculative decoding (length: drafted tokens accepted at a time)", title_justify="left")
    for title in ("", "mode", "acceptance", "length", "tokens/s", "speed-up", "nats/token"):
        table.add_column(title, justify="left" if title in ("", "mode") else "right")
    for side, modes in found.items():
        for mode, of in modes.items():
            rate = "" if of["acceptance"] is None else f"{of['acceptance']:.1%}"
            table.add_row(
                escape(side), escape(mode), rate, f"{of['accepted_length']:.2f}", f"{of['tokens_per_second']:.1f}",
                f"{of['speed_up']:.2f}", f"{of['nats_per_token']:.2f}",
            )  # fmt: skip
    console.print(table)


def print_rules(console: Console, rules: Sequence[Rule]) -> None:
    """One line a rule; of those that do not hold also what to do and where the tool says so."""
    for rule in rules:
        mark = "[green]ok[/green]  " if rule.ok else "[red]FAIL[/red]" if rule.must else "[yellow]warn[/yellow]"
        console.print(f"{mark} {escape(rule.name)}: {escape(rule.detail)}")
        if not rule.ok:
            console.print(f"     remedy: {escape(rule.remedy)}\n     rule: {escape(rule.source)}")
    failed, warned = (sum(not rule.ok for rule in rules if rule.must == must) for must in (True, False))
    end = f"{failed} of {len(rules)} rules fail" if failed else "" if warned else f"all {len(rules)} rules hold"
    console.print(", ".join(part for part in (end, f"{warned} warn" if warned else "") if part))


def print_evaluation(console: Console, results: Mapping[str, Any]) -> None:
    """Bits per byte, side by side."""
    table = Table(title="bits per byte (lower is better)", title_justify="left")
    table.add_column("text", overflow="fold")
    for name in short_names(list(results)):
        table.add_column(escape(name), justify="right", overflow="fold")
    first = next(iter(results.values()))
    for text in first["texts"]:
        table.add_row(escape(text), *(f"{r['texts'][text]['bits_per_byte']:.4f}" for r in results.values()))
    if len(first["texts"]) > 1:
        table.add_row("mean", *(f"{r['mean_bits_per_byte']:.4f}" for r in results.values()))
    console.print(table)
    for name, result in results.items():
        for text, score in result["texts"].items():
            groups = ", ".join(
                f"{g} {v['nats_per_token']:.2f} nats ({v['tokens']:,} tokens)" for g, v in score["groups"].items()
            )
            if groups:
                console.print(
                    f"{escape(name)}, {escape(text)}: {groups}; {score['dead_mass']:.1e} of the probability on dead ids"
                )


def _print_warnings(console: Console, summary: Mapping[str, Any]) -> None:
    for warning in warnings(dict(summary)):
        console.print(f"[yellow]![/yellow] {escape(warning)}")
