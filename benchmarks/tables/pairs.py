"""The tables on pairs: every tokenizer on every body, and the four real models on each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["control_tokens", "pairs", "real_pairs"]

_COPIED = "the base's "
_NAMED = 6
"""Control tokens of a kind that are named; the others are counted."""


_ROLES = {
    "turn starts": ("turn_start",), "turn ends": ("turn_end",), "speakers": ("user", "assistant"),
    "header ends": ("header_end",), "document begins": ("bos",), "document ends": ("eos",),
}  # fmt: skip


def control_tokens(result: dict[str, Any]) -> str:
    """Each tokenizer's turn markers and ends of documents, the first that stands for a role."""
    lines = [f"| tokenizer | {' | '.join(_ROLES)} | others |", "|---" * (len(_ROLES) + 1) + "|---:|"]
    for name, roles in result["tokenizers"].items():
        firsts = {title: [roles[role][0] for role in of if role in roles] for title, of in _ROLES.items()}
        cells = [", ".join(_code(literal) for literal in literals) for literals in firsts.values()]
        named = {literal for literals in firsts.values() for literal in literals}
        others = {literal for literals in roles.values() for literal in literals} - named
        lines.append(f"| {name} | {' | '.join(cells)} | {len(others)} |")
    foreign = sum(bool(pair["foreign"]) for pair in result["pairs"].values())
    return "\n".join(
        [
            *lines,
            "",
            f"{len(result['pairs'])} ordered pairs; in {foreign} of them the base knows no turns like some of the "
            f"donor's. {_date(result)} Every mapping: `benchmarks/results/control_tokens.json`.",
        ]
    )


def pairs(result: dict[str, Any]) -> str:
    """``ok``, or the number of a line that says why not."""
    settings, rows = result["settings"], result["cells"]
    real = {f"real {body}": title for body, title in settings["real"]["bodies"].items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    titles = [real.get(column, f"`{column.removeprefix('tiny ')}`") for column in columns]
    lines = [f"| tokenizer | {' | '.join(titles)} |", "|---" * (len(columns) + 1) + "|"]
    notes: dict[str, int] = {}
    for name, row in rows.items():
        cells = [_cell(row[column], notes) for column in columns]
        lines.append(f"| {settings['tokenizers'][name]['title']} | {' | '.join(cells)} |")
    states = Counter(cell["state"] for row in rows.values() for cell in row.values())
    told = ", ".join(f"{states[state]} {state}" for state in ("ok", "refused", "failed"))
    return "\n".join(
        [
            *lines,
            "",
            *(f"{number}. {_plain(note)}" for note, number in notes.items()),
            *([""] if notes else []),
            f"{sum(states.values())} cells: {told}. Every ok stands for a transplant that was verified, "
            f"{settings['strings']} texts in {len(settings['sentences'])} scripts that AutoTokenizer cuts as the "
            f"donor's tokenizer.json does, and {settings['new_tokens']} generated tokens. {_date(result)} Result file: "
            "`benchmarks/results/pairs.json`.",
        ]
    )


def _cell(cell: Mapping[str, Any], notes: dict[str, int]) -> str:
    if cell["state"] == "ok":
        return "ok"
    number = notes.setdefault(f"{cell['state'].capitalize()}: {cell['reason']}", len(notes) + 1)
    return f"({number})" if cell["state"] == "refused" else f"**({number})**"


def real_pairs(result: dict[str, Any]) -> str:
    """Bits per byte of text and of answers, and which control tokens the base knows."""
    titles, bases = result["settings"]["models"], result["bases"]
    lines = [
        "| base ← donor's tokenizer | rows by | anchors | WikiText-2 | chat | chat as plain text |",
        "|---|---|---:|---:|---:|---:|",
    ]
    tokens = [
        "| base ← donor's tokenizer | control tokens with a row of the base | with a reconstructed row | silent |",
        "|---|---|---|---|",
    ]
    before = None
    for pair in result["pairs"]:
        base, donor = pair["base"], pair["donor"]
        if base != before:
            lines.append(f"| **{titles[base]}**, untouched | | | {_bits(bases[base])} |")
            before = base
        for method, side in pair["sides"].items():
            title = f"← {titles[donor]} | {method}"
            if "refused" in side:
                lines.append(f"| {title} | refused: {_plain(side['refused'])} | | | |")
            else:
                lines.append(f"| {title} | {side['anchors']:,} | {_bits(side)} |")
        first = next((side for side in pair["sides"].values() if "refused" not in side), None)
        if first is not None:
            tokens.append(f"| {titles[base]} ← {titles[donor]} | {_control(first['control_tokens'])} |")
    talk = result["settings"]["conversation"]
    said = sum(len(message["content"].encode()) for message in talk if message["role"] == "assistant")
    return "\n".join(
        [
            *lines,
            "",
            f"Bits per byte of {result['settings']['bytes'] // 1024} kB of WikiText-2, and of the {said} bytes that "
            "the assistant says in a conversation of three turns: in the template that comes with the tokenizer, and "
            "in lines that begin with the speaker's name.",
            "",
            *tokens,
            "",
            f"{_date(result)} Result file: `benchmarks/results/real_pairs.json`, with an answer of every model.",
        ]
    )


def _bits(of: Mapping[str, Any]) -> str:
    chat = "no template" if of["chat"] is None else f"{of['chat']:.3f}"
    return f"{of['text']:.3f} | {chat} | {of['plain']:.3f}"


def _control(tokens: Sequence[Mapping[str, str]]) -> str:
    """By what became of them."""
    known, made, silent = [], [], []
    for token in tokens:
        became, name = token["became"], _code(token["token"])
        if became.startswith(_COPIED):
            known.append(f"{name} ← {_code(became.removeprefix(_COPIED))}")
        else:
            (made if became.startswith("reconstructed") else silent).append(name)
    return " | ".join(_listed(some) for some in (known, made, silent))


def _code(token: str) -> str:
    return token if token.endswith("further ones") else f"`{token}`".replace("|", "\\|")


def _listed(some: Sequence[str]) -> str:
    return ", ".join(some[:_NAMED]) + (f" and {len(some) - _NAMED} more" if len(some) > _NAMED else "")


def _plain(text: str) -> str:
    """A reason in a Markdown page."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _date(result: Mapping[str, Any]) -> str:
    return f"{result['date']}, transformers {result['versions']['transformers']}."
