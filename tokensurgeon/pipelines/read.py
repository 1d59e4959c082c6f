"""Read a pipeline: a YAML file with inputs and with stages, each of which is a command and its options.

    inputs:
      model:                       # no value: it must be given
      add: 1000                    # a default
    stages:
      - name: extended
        extend: {model: $model, add: $add, text: domain.txt}
      - name: kept
        evaluate: {model: $extended, against: $model}
        gates: [{loses_at_most: 0.02}]

Options have the names that they have on the command line. ``$name`` stands for an input, or for what an earlier stage
wrote; in a gate for an input alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint.text import read_text
from tokensurgeon.errors import InputError
from tokensurgeon.pipelines.gates import Gate, gate_of
from tokensurgeon.pipelines.record import RECORD

__all__ = ["Pipeline", "Stage", "read_pipeline", "shipped", "with_values"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_RECIPES = "tokensurgeon.pipelines", "recipes"


@dataclass(frozen=True, slots=True)
class Stage:
    """One command.

    Attributes:
        name: What its output is called.
        command: Such as ``extend``.
        options: By name; values may be references such as ``$model``.
        gates: What its figures must keep to; for ``evaluate`` alone.
    """

    name: str
    command: str
    options: Mapping[str, Any]
    gates: Sequence[Gate]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What a file says.

    Attributes:
        name: The file's, for messages.
        inputs: By name: what ``$name`` stands for.
        stages: In the order in which they run.
    """

    name: str
    inputs: Mapping[str, Any]
    stages: Sequence[Stage]


def shipped() -> dict[str, Path]:
    """The recipes that come with this package, by name."""
    found = sorted(files(_RECIPES[0]).joinpath(_RECIPES[1]).iterdir(), key=lambda entry: entry.name)
    return {entry.name.removesuffix(".yaml"): Path(str(entry)) for entry in found if entry.name.endswith(".yaml")}


def read_pipeline(reference: str, given: Mapping[str, Any], commands: Sequence[str]) -> Pipeline:
    """Read and check what a file says, without looking at any model.

    Args:
        reference: A file, or the name of a recipe that comes with this package.
        given: Values of inputs, which win over the defaults.
        commands: Known to stages.

    Raises:
        InputError: If the file is missing, no YAML, or names what is not known, or what comes later.
    """
    path = Path(reference).expanduser()
    if not path.exists() and path.name == reference and reference in shipped():
        path = shipped()[reference]
    content = _table(_parsed(path), f"pipeline {path}", ("inputs", "stages"))
    inputs = content.get("inputs") or {}
    if not isinstance(inputs, dict):
        raise InputError(f"pipeline {path}: inputs must be a table of names and defaults")
    if strangers := sorted(set(given) - set(map(str, inputs))):
        raise InputError(f"pipeline {path} has no input {strangers[0]}; it has {', '.join(map(str, inputs)) or 'none'}")
    values = {str(name): given.get(str(name), value) for name, value in inputs.items()}
    if missing := [name for name, value in values.items() if value is None]:
        raise InputError(f"pipeline {path} needs {missing[0]}: --set {missing[0]}=VALUE")
    listed = content.get("stages")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"pipeline {path} has no stages: give a list of them")
    stages = [_stage(entry, f"pipeline {path}: stage {n}", commands, values) for n, entry in enumerate(listed, 1)]
    _refuse_names(path, list(values), stages)
    return Pipeline(str(path), values, stages)


def with_values(value: Any, names: Mapping[str, Any]) -> Any:
    """A copy of an option's value in which what stands for something else is replaced; YAML's aliases stay aliases.

    Raises:
        KeyError: With a name that stands for nothing.
    """
    copies: dict[int, Any] = {}

    def copied(node: Any) -> Any:
        if isinstance(node, dict | list) and id(node) not in copies:
            copies[id(node)] = (
                {key: copied(part) for key, part in node.items()}
                if isinstance(node, dict)
                else [copied(part) for part in node]
            )
        if isinstance(node, dict | list):
            return copies[id(node)]
        return names[node[1:]] if isinstance(node, str) and node.startswith("$") else node

    return copied(value)


def _parsed(path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        from tokensurgeon.errors import MissingDependencyError

        raise MissingDependencyError("pyyaml", "merge", "tokensurgeon run") from error
    try:
        return yaml.safe_load(read_text(path))
    except OSError as error:
        raise InputError(
            f"pipeline {path} cannot be read ({error.strerror}); {', '.join(shipped())} come with this package"
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"pipeline {path} is not valid YAML ({' '.join(str(error).split())})") from error


def _table(value: Any, what: str, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{what} must be a table with {' and '.join(known)}")
    if strangers := sorted(str(name) for name in value if name not in known):
        raise InputError(f"{what} has an unknown key {strangers[0]!r}; known are {', '.join(known)}")
    return value


def _stage(entry: Any, what: str, commands: Sequence[str], values: Mapping[str, Any]) -> Stage:
    entry = _table(entry, what, ("name", "gates", *commands))
    named = [name for name in entry if name in commands]
    name, gates = entry.get("name"), entry.get("gates") or []
    if len(named) != 1:
        raise InputError(f"{what} must have one command, of {', '.join(commands)}, and has {len(named)}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"{what} needs a name of letters, digits, - and _, and has {name!r}")
    if f"{name}.json" == RECORD:
        raise InputError(f"{what}: {name} is the name of the record {RECORD}. Give the stage another one")
    options = entry[named[0]]
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise InputError(f"{what} ({name}): {named[0]} must be a table of options")
    if not isinstance(gates, list):
        raise InputError(f"{what} ({name}): gates must be a list")
    if gates and (named[0] != "evaluate" or "against" not in options):
        raise InputError(f"{what} ({name}): gates are for evaluate with against, which says what is lost")
    try:
        gates = with_values(gates, values)
    except KeyError as error:
        raise InputError(f"{what} ({name}): a gate names ${error.args[0]}, which is no input") from error
    return Stage(name, named[0], options, [gate_of(gate, f"{what} ({name})") for gate in gates])


def _refuse_names(path: Path, inputs: Sequence[str], stages: Sequence[Stage]) -> None:
    """Refuse names that two have, and references to what there is not, or not yet."""
    seen, all_of_them = list(inputs), {stage.name for stage in stages}
    for stage in stages:
        where = f"pipeline {path}: stage {stage.name}"
        if stage.name in seen:
            raise InputError(f"{where}: another input or stage has this name")
        for name in _references(stage.options):
            if name not in seen:
                late = "is made by this stage or a later one" if name in all_of_them else "is neither input nor stage"
                raise InputError(f"{where}: ${name} {late}; known there are {', '.join(seen) or 'none'}")
        seen.append(stage.name)


def _references(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value[1:]] if value.startswith("$") else []
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [name for part in parts for name in _references(part)]
