"""Write an output's settings and side files once more, and hold what lies in it against them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokensurgeon.alignment import Alignment
from tokensurgeon.checkpoint.foreign import links
from tokensurgeon.checkpoint.header import INDEX, SINGLE
from tokensurgeon.checkpoint.names import MANIFEST, TEMPLATES, is_tokenizer, is_weights
from tokensurgeon.checkpoint.settings import CONFIG, GENERATION
from tokensurgeon.checkpoint.small_files import SmallFiles
from tokensurgeon.checkpoint.text import read_json
from tokensurgeon.errors import InputError
from tokensurgeon.verification.digests import PAGES, files_in
from tokensurgeon.verification.evidence import Evidence
from tokensurgeon.verification.running import Check
from tokensurgeon.vocabulary.edit.drop import trimmed_spec

__all__ = ["added_checks", "own_tokenizer_checks", "settings_checks"]

_LOADED = (
    "*.py",
    "*.pyc",
    "*.so",
    "*.dll",
    "*.dylib",
    "*.json",
    "*.jinja",
    "*.pkl",
    "*.pickle",
    "*.joblib",
    "*.np[yz]",
)
"""What some loader reads or runs, besides weights and a tokenizer's files."""
_TOKENIZER = "tokenizer_config.json"
_PINNED = {"tokenizer_class", "model_input_names", "padding_side"}
"""What `tokensurgeon.checkpoint.pinning` writes into tokenizer_config.json by the classes that transformers has."""
_MISSING = object()


def settings_checks(evidence: Evidence, alignment: Alignment) -> Iterator[Check]:
    """Settings, tokenizer files and the base's other files are those that were to be written; nothing was added.

    Args:
        evidence: The models.
        alignment: Where the rows come from, as `tokensurgeon.verification.origin` derives it.
    """
    options, kind, known = evidence.content["options"], evidence.kind, evidence.tokenizer
    stops = None
    if kind in ("transplant", "revert"):
        stops = (evidence.out if evidence.donor is None else evidence.donor).directory
    small = SmallFiles(
        base=evidence.base.directory,
        tokenizer=known or evidence.out.tokenizer,
        stops=stops,
        plan=alignment.plan,
        alignment=alignment if kind == "transplant" else None,
        tied=evidence.base.layout.tied and not options.get("untie"),
        dtype=options.get("dtype"),
        resized=(evidence.base.layout.rows, len(evidence.base.vocabulary)) if kind == "resize" else None,
    )
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-verify-") as name:
        place = Path(name)
        try:
            small.write_others(place)
            if known is not None:
                small.write_tokenizer(place)
            small.write_settings(place)
        except InputError as error:
            yield Check("settings", False, f"they cannot be written again: {error}")
            return
        made = files_in(place)
        yield from _compared(evidence, made)
        yield from _planted(evidence, set(made))


def _compared(evidence: Evidence, made: Mapping[str, Path]) -> Iterator[Check]:
    there = files_in(evidence.out.directory)
    for name in (CONFIG, GENERATION):
        differs = _difference(there.get(name), made[name]) if name in made else ""
        yield Check(name, not differs, differs or "as written again from the base's")
    others = {
        name: _difference(there.get(name), path) for name, path in made.items() if name not in (CONFIG, GENERATION)
    }
    differ = {name: text for name, text in others.items() if text}
    written, here = evidence.content.get("versions", {}).get("transformers"), version("transformers")
    if differ.keys() == {_TOKENIZER} and written != here and _only_pinned(there.get(_TOKENIZER), made[_TOKENIZER]):
        yield Check("other files", True, f"{differ[_TOKENIZER]}, for transformers {here}", note=True)
        return
    shown = "; ".join(f"{name}: {text}" for name, text in sorted(differ.items())[:3])
    whose = "the base's" if evidence.tokenizer is None else "the base's and the tokenizer's"
    yield Check("other files", not differ, shown or f"{len(others)} of {whose} as written again")


def _only_pinned(found: Path | None, wanted: Path) -> bool:
    """Whether two files of tokenizer settings differ in nothing but what depends on transformers' version."""
    return found is not None and {place for place, *_ in _keys(read_json(found), read_json(wanted))} <= _PINNED


def _difference(found: Path | None, wanted: Path) -> str:
    """How a file differs from what was to be written; empty if it does not."""
    if found is None:
        return "it is missing"
    if found.read_bytes() == wanted.read_bytes():
        return ""
    if wanted.suffix != ".json":
        return "its content is another"
    try:
        keys = list(_keys(read_json(found), read_json(wanted)))
    except InputError as error:
        return str(error)
    shown = "; ".join(f"{key} is {_shown(a)}, and must be {_shown(b)}" for key, a, b in keys[:3])
    return shown + (f"; {len(keys) - 3} more" if keys[3:] else "")


def _keys(found: Any, wanted: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Values that differ, with where they are."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in {**wanted, **found}:
            here = f"{place}.{name}" if place else str(name)
            yield from _keys(found.get(name, _MISSING), wanted.get(name, _MISSING), here)
    elif type(found) is not type(wanted) or found != wanted:
        yield place, found, wanted


def _shown(value: Any) -> str:
    text = "missing" if value is _MISSING else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _planted(evidence: Evidence, made: set[str]) -> Iterator[Check]:
    """Files that were not to be written: what a loader would read or run must not be there."""
    out, content = evidence.out.directory, evidence.content
    shards = evidence.out.checkpoint.shards
    expected = {*made, *(name for name in shards if name in evidence.base.checkpoint.shards), *PAGES, MANIFEST}
    if [*shards] != [SINGLE]:
        expected.add(INDEX)
    extra = [name for name in files_in(out) if name not in expected]
    if evidence.tokenizer is None:  # which of its files it has is not known
        recorded = content.get("sha256", {}).get("files")
        own = [n for n in extra if _is_tokenizers(n) and (recorded is None or n in recorded)]
        if code := [name for name in own if name.endswith(".py")]:
            yield Check("code", True, f"{', '.join(code)}: said to be the donor's; give it to prove that", note=True)
        extra = [name for name in extra if name not in own]
    yield from added_checks(out, extra)


def added_checks(out: Path, extra: list[str]) -> Iterator[Check]:
    """Of files that were not written with an output, none is a link, and none is read or run by a loader.

    Args:
        out: The output.
        extra: Their places in it.
    """
    linked = [path.relative_to(out).as_posix() for path in links(out)]
    shown = ", ".join(linked[:5]) + (f" and {len(linked) - 5} more" if linked[5:] else "")
    yield Check("no links", not linked, f"{shown}: tokensurgeon writes no links" if linked else "files and folders")
    loaded = [name for name in extra if _is_loaded(Path(name))]
    shown = ", ".join(loaded[:5])
    yield Check(
        "nothing added", not loaded, f"{shown}: not written by tokensurgeon" if loaded else "no file that is loaded"
    )
    if left := [name for name in extra if name not in loaded]:
        yield Check("added files", True, f"{', '.join(left[:5])}: not written by tokensurgeon, not loaded", note=True)


def _is_tokenizers(name: str) -> bool:
    return is_tokenizer(Path(name)) or Path(name).parts[0] == TEMPLATES


def _is_loaded(path: Path) -> bool:
    return is_tokenizer(path) or is_weights(path) or any(path.match(pattern) for pattern in _LOADED)


def own_tokenizer_checks(evidence: Evidence) -> Iterator[Check]:
    """A model's own tokenizer with fewer or more tokens is as before in everything else."""
    old, new = evidence.base.spec, evidence.out.spec
    if evidence.kind == "trim":
        source = evidence.manifest.plan.source.tolist()
        known = set(evidence.base.ids.values())
        same = all(i in known for i in source) and _plainly(trimmed_spec(old, source)) == _plainly(new)
        yield Check("tokenizer", same, "the base's with fewer tokens" if same else "not the base's with these tokens")
    if evidence.kind == "extend":
        merges = [tuple(merge) for merge in old["model"].get("merges", [])]
        kept = {*merges}
        left = [m for merge in new["model"].get("merges", []) if (m := tuple(merge)) in kept]
        same = _rest(old) == _rest(new) and left == merges
        yield Check("tokenizer", same, "the base's with more tokens" if same else "not the base's in other respects")


def _rest(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer without its tokens."""
    rest = {name: value for name, value in spec.items() if name != "added_tokens"}
    return rest | {"model": {n: v for n, v in spec["model"].items() if n not in ("vocab", "merges", "dropout")}}


def _plainly(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer as data that compares: merges as pairs, tokens by id."""
    model = {name: value for name, value in spec["model"].items() if name != "dropout"}
    if "merges" in model:
        model["merges"] = [tuple(merge) for merge in model["merges"]]
    return {**spec, "model": model}
