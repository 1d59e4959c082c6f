"""Run a pipeline's stages in turn, each as the single command would, and stop at a gate that is not kept to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from tokensurgeon.checkpoint.digest import file_digest
from tokensurgeon.checkpoint.resolve import resolve
from tokensurgeon.errors import InputError, VerificationError
from tokensurgeon.evaluation.texts import open_texts
from tokensurgeon.pipelines.read import Pipeline, Stage, with_values
from tokensurgeon.pipelines.record import RECORD, Record, Weights, key_of_stage, model_digest

__all__ = ["Command", "Done", "run_pipeline"]


class Command(Protocol):
    """What a stage can be."""

    @property
    def suffix(self) -> str:
        """Of what it writes; empty for a model's directory."""

    def check(self, options: Mapping[str, Any], out: Path) -> None:
        """Refuse options that the command would refuse, before any work."""

    def takes(self, options: Mapping[str, Any]) -> tuple[Sequence[tuple[str, Weights]], Sequence[Path]]:
        """The models that the options name, each with what is read of its weights, and the files."""

    def run(self, options: Mapping[str, Any], out: Path, overwrite: bool) -> None:
        """Do it."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a stage.

    Attributes:
        name: The stage's.
        command: Such as ``heal``.
        out: What it wrote.
        kept: Whether that was there already, made of the same.
        gates: What there is to say of each gate.
        figures: What ``evaluate`` found; empty for other commands.
    """

    name: str
    command: str
    out: Path
    kept: bool
    gates: Sequence[str] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Planned:
    """A stage whose references are replaced.

    Attributes:
        stage: The stage.
        out: What it is to write.
        options: With values and places instead of references.
        told: With values, outputs of stages as they are referred to, and names of other models and files without the
            folders that they lie in: what is in them counts.
        models: That the options name, each with what is read of its weights.
        files: That the options name.
    """

    stage: Stage
    out: Path
    options: Mapping[str, Any]
    told: Mapping[str, Any]
    models: Sequence[tuple[str, Weights]]
    files: Sequence[Path]


def run_pipeline(
    pipeline: Pipeline,
    out: Path | str,
    commands: Mapping[str, Command],
    *,
    overwrite: bool = False,
    told: Callable[[int, int, Stage, bool], None] | None = None,
) -> list[Done]:
    """Run what is not there yet.

    Args:
        pipeline: As `tokensurgeon.pipelines.read_pipeline` gives it.
        out: Directory; every stage's output gets its name in there.
        commands: By name.
        overwrite: Replace outputs that were made of other inputs or options, or by another version.
        told: Called at each stage with (number, of how many, stage, whether its output is there already).

    Raises:
        InputError: If a stage cannot be run as it is asked for; found before any work, but for what depends on the
            content of what earlier stages make.
        VerificationError: If a gate is not kept to; what was made is kept.
    """
    place = Path(out).expanduser().absolute()
    if place.exists() and not place.is_dir():
        raise InputError(f"--out {place} is no directory; a pipeline writes one, with an output of each stage in it")
    stages = _planned(pipeline, place, commands)
    record, done = Record(place / RECORD), []
    for number, planned in enumerate(stages, 1):
        stage, command = planned.stage, commands[planned.stage.command]
        key = key_of_stage(stage.command, planned.told, _contents(planned))
        state = record.state(stage.name, key, planned.out)
        if state == "changed" and not overwrite:
            raise InputError(
                f"{planned.out} was made of other inputs or options, by another version, or was changed since. "
                "--overwrite makes it and what depends on it again; or give another --out"
            )
        if told is not None:
            told(number, len(stages), stage, state == "made")
        if state != "made":
            record.begun(stage.name, key, planned.out)
            command.run(planned.options, planned.out, overwrite)
            record.ended(stage.name, planned.out)
        done.append(_judged(planned, state == "made"))
    return done


def _planned(pipeline: Pipeline, place: Path, commands: Mapping[str, Command]) -> list[_Planned]:
    """Replace references, and refuse what no command would take."""
    values, shown, made, found = dict(pipeline.inputs), dict(pipeline.inputs), set[str](), []
    for stage in pipeline.stages:
        command, where = commands[stage.command], f"pipeline {pipeline.name}: stage {stage.name}"
        out = place / f"{stage.name}{command.suffix}"
        try:
            options = with_values(stage.options, values)
            command.check(options, out)
            models, files = command.takes(options)
            for model, _ in models:
                if model not in made:
                    resolve(model, weights="none")
            for file in files:
                if not file.is_file():
                    raise InputError(f"{file} is no file")
            texts = files or [Path(name) for name in open_texts([])]
            stage = replace(stage, gates=[gate.among(texts) for gate in stage.gates])
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        names = Counter(file.name for file in files)  # figures name a text by its path where two have one name
        short = {model: Path(model).name for model, _ in models}
        short |= {str(file): file.name for file in files if names[file.name] == 1}
        told = _renamed(with_values(stage.options, shown), short)
        found.append(_Planned(stage, out, options, told, models, files))
        values[stage.name], shown[stage.name] = str(out), f"${stage.name}"
        made.add(str(out))
    return found


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _renamed(part, names) for name, part in value.items()}
    if isinstance(value, list):
        return [_renamed(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value


def _contents(planned: _Planned) -> dict[str, str]:
    """Digests of what a stage is made from, each by its place in the order of its options."""
    models = {f"model {number}": model_digest(*model) for number, model in enumerate(planned.models)}
    return models | {f"file {number}": file_digest(file) for number, file in enumerate(planned.files)}


def _judged(planned: _Planned, kept: bool) -> Done:
    stage = planned.stage
    if stage.command != "evaluate":
        return Done(stage.name, stage.command, planned.out, kept)
    figures = json.loads(planned.out.read_text("utf-8"))
    scores = list(figures.values())  # of the model, and of what it is compared with, which may be the same
    judged = [gate.judged(scores[0], scores[-1]) for gate in stage.gates]
    for ok, what in judged:
        if not ok:
            raise VerificationError(
                f"stage {stage.name}: {what}. No later stage was run; what was made is in {planned.out.parent}"
            )
    return Done(stage.name, stage.command, planned.out, kept, [what for _, what in judged], figures)
