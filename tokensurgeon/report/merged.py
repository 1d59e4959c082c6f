"""Write a merged model's README.md and ``report.html``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tokensurgeon.report.card import file_notes
from tokensurgeon.report.curve import search_curve
from tokensurgeon.report.markdown import code, escaped, fenced, front_matter

__all__ = ["merge_card", "merge_page", "merge_summary"]


def merge_summary(content: Mapping[str, Any]) -> list[str]:
    """What was merged and what became of rows, in sentences.

    Args:
        content: The manifest's content.
    """
    merge = content["merge"]
    found = [
        f"{model['name']}{' (base)' if model['base'] else ''}: "
        + (
            "as it is."
            if model["transplant"] is None
            else f"transplanted; {model['rows']['own']:,} rows are its own, "
            + (f"{model['rows']['trained']:,} were made and trained, " if model["rows"]["trained"] else "")
            + f"{model['rows']['made']:,} were made from others, {model['rows']['silent']:,} take no probability."
        )
        for model in merge["models"]
    ]
    for tensor, rows in merge["rows"].items():
        taken = ", ".join(f"{count:,} from {name}" for name, count in rows["taken"].items() if count)
        sentence = f"In the {tensor}, {rows['merged']:,} rows were merged by {merge['title']}"
        sentence += f", {rows['averaged']:,} averaged" if rows["averaged"] else ""
        sentence += f", {rows['named']:,} taken as the recipe's tokens say" if rows["named"] else ""
        sentence += f"; taken as they are: {taken}" if taken else ""
        found.append(
            f"{sentence}. {rows['differing']:,} stand for tokens that some models know and others do not "
            f"(embeddings: {merge['embeddings']})."
        )
    found += _searched(merge["search"]) if "search" in merge else []
    found += [
        f"The union lacks {count:,} tokens of {name}, which its way of cutting text could never give."
        for name, count in merge["left_out"].items()
    ]
    if content["not_run"]:
        found.append(f"The model was not run ({content['not_run']}).")
    found += [f"Removed from {setting}." for setting in content["removed_settings"]]
    return found + file_notes(content)


def _searched(search: Mapping[str, Any]) -> list[str]:
    """What a search found, and what that is worth on text that it did not see."""
    numbers = ", ".join(f"{one['name']} = {one['found']:g} (from {one['start']:g})" for one in search["numbers"])
    held, searched = search["held_out"], search["searched"]
    low, high = held["gain"]["interval"]
    return [
        f"A search of {search['evaluations']:,} merges on {', '.join(search['texts'])} found {numbers}. The "
        f"{search['objective']} went from {searched['start']:.4f} to {searched['found']:.4f} there; on the other half "
        f"of each text, which it did not see, from {held['start']['value']:.4f} to {held['found']['value']:.4f}: a "
        f"gain of {held['gain']['value']:.4f}, 95 % interval {low:.4f} to {high:.4f}."
    ]


def merge_card(content: Mapping[str, Any]) -> str:
    """Markdown with the front matter that the hub reads.

    Args:
        content: The manifest's content, its texts fit to be shown, the recipe as lines.
    """
    merge = content["merge"]
    link = f" ({merge['reference']})" if merge["reference"] else ""
    return "\n".join(
        [
            *front_matter(
                library_name="transformers",
                base_model=[model["name"] for model in merge["models"]],
                tags=["tokensurgeon", "mergekit", "merge"],
            ),
            f"# {len(merge['models'])} models merged by {merge['title']}",
            "",
            f"Merged by mergekit {content['versions']['mergekit']}, method {merge['method']}{link}, after tokensurgeon "
            f"{content['versions']['tokensurgeon']} had given all models the tokenizer of {code(merge['tokenizer'])}. "
            "The licences of all models apply.",
            "",
            *(f"- {escaped(line)}" for line in merge_summary(content)),
            "",
            "The recipe:",
            "",
            *fenced(merge["recipe"], "yaml"),
            "",
            "`tokensurgeon.json` holds versions, options, hashes and the provenance of every row.",
            "",
        ]
    )


def merge_page(content: Mapping[str, Any]) -> str:
    """HTML, self-contained; ``content`` is that of `merge_card`."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("tokensurgeon.report").joinpath("merged.html.j2").read_text("utf-8"))
    search = content["merge"].get("search")
    curve = Markup(search_curve(search["tried"], search["objective"])) if search else None  # numbers alone
    return template.render(content=content, merge=content["merge"], notes=merge_summary(content), curve=curve)
