"""Make stages of a pipeline from the commands: options to a command line, checked as a command line is."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from tokensurgeon.cli.options import parse_pairs, parse_special
from tokensurgeon.errors import InputError

if TYPE_CHECKING:
    from tokensurgeon.pipelines.record import Weights

__all__ = ["STAGES", "StageCommand", "StageError"]

_OURS = ("--out", "--gguf", "--overwrite", "--json", "--quiet", "--debug", "--help", "--dry-run", "--profile")
_USAGE = cast(type[Exception], typer.BadParameter.__bases__[0])  # of click, of which some versions of typer have a copy


class StageError(Exception):
    """A stage's command ended with an exit code, and has said why."""

    def __init__(self, code: int) -> None:
        """Keep the code."""
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Kind:
    """What tells one command from others.

    Attributes:
        models: Parameters that name models.
        out: The option that says where the output goes; None where it is printed.
        suffix: Of the output; empty for a model's directory.
        options: Module and class of the options that check their values.
    """

    models: Sequence[str]
    out: str | None = "--out"
    suffix: str = ""
    options: tuple[str, str] | None = None


STAGES = {
    "transplant": _Kind(("base", "donor"), options=("surgery.options", "TransplantOptions")),
    "extend": _Kind(("model", "donor"), options=("surgery.options", "ExtendOptions")),
    "trim": _Kind(("model",)),
    "heal": _Kind(("model", "teacher"), options=("healing.options", "HealOptions")),
    "distil": _Kind(("student", "teacher"), options=("distilling.options", "DistilOptions")),
    "merge": _Kind((), options=("merging.search.run", "SearchOptions")),
    "evaluate": _Kind(("model", "against"), out=None, suffix=".json"),
    "export": _Kind(("model",), out="--gguf", suffix=".gguf"),
}


@dataclass(frozen=True, slots=True)
class StageCommand:
    """A command of `STAGES` as a stage (`tokensurgeon.pipelines.run.Command`).

    Attributes:
        name: The command's.
        command: What parses its command line, and runs it.
        output: Options for what it prints, such as ``--quiet``.
    """

    name: str
    command: Any
    output: Sequence[str] = ()

    @property
    def suffix(self) -> str:
        """Of what it writes."""
        return STAGES[self.name].suffix

    def check(self, options: Mapping[str, Any], out: Path) -> None:
        """Parse the command line that the options make, and check their values as far as they do so themselves."""
        given = self._parsed(options, out)
        kind = STAGES[self.name].options
        if kind is None:
            return
        from importlib import import_module

        given["text_weights"] = given.get("text_weight")
        given["method_options"] = parse_pairs(given.get("method_option"))
        checked = getattr(import_module(f"tokensurgeon.{kind[0]}"), kind[1])
        known = {field.name for field in fields(checked)}
        checked(**{name: _plain(name, value) for name, value in given.items() if name in known and value is not None})

    def takes(self, options: Mapping[str, Any]) -> tuple[list[tuple[str, Weights]], list[Path]]:
        """The models that the options name, each with what is read of its weights, and the files."""
        given = self._parsed(options, Path("out"))
        models: list[tuple[str, Weights]] = [
            (str(given[name]), "vocabulary" if name == "donor" else "all")
            for name in STAGES[self.name].models
            if given.get(name) is not None
        ]
        files: list[Path] = []
        for name, value in given.items():
            several = value if isinstance(value, list | tuple) else [value]
            files += [
                one.expanduser() for one in several if isinstance(one, Path) and name not in ("out", "gguf", "cache")
            ]
        if self.name == "transplant" and given.get("config") is not None:
            from tokensurgeon.surgery.options import load_recipe

            files += [Path(text).expanduser() for text in load_recipe(Path(given["config"])).text]
        if self.name == "merge":
            from tokensurgeon.pipelines.recipe import named_in_recipe

            more, named = named_in_recipe(options["recipe"], bool(given.get("search")))
            models, files = models + more, [file for file in files if file != given["recipe"]] + named
        return models, files

    def run(self, options: Mapping[str, Any], out: Path, overwrite: bool) -> None:
        """Run the command; what ``evaluate`` prints becomes its output.

        Raises:
            StageError: If it does not end well.
        """
        from tokensurgeon.checkpoint.staging import check_target, staged
        from tokensurgeon.checkpoint.text import write_text

        if isinstance(options.get("recipe"), Mapping):
            from tokensurgeon.pipelines.recipe import write_recipe

            write_recipe(options["recipe"], _recipe_file(out))
        line, held = self._line(options, out), io.StringIO()
        if STAGES[self.name].out is not None:
            code = self.command.main(
                [*(["--overwrite"] if overwrite else []), *self.output, *line],
                prog_name=self.name,
                standalone_mode=False,
            )
        else:
            check_target(out, overwrite, suffix=self.suffix)
            with contextlib.redirect_stdout(held):
                code = self.command.main(["--json", *line], prog_name=self.name, standalone_mode=False)
        if code:
            raise StageError(int(code))
        if STAGES[self.name].out is None:
            with staged(out, overwrite, suffix=self.suffix) as work:
                write_text(work, held.getvalue())

    def _parsed(self, options: Mapping[str, Any], out: Path) -> dict[str, Any]:
        try:
            with self.command.make_context(self.name, self._line(options, out)) as context:
                return dict(context.params)
        except _USAGE as error:
            raise InputError(" ".join(cast(Any, error).format_message().split())) from error

    def _line(self, options: Mapping[str, Any], out: Path) -> list[str]:
        """The command line: arguments by position, options by their names."""
        kind, arguments, words = STAGES[self.name], [], []
        rest = {name.replace("_", "-"): value for name, value in options.items()}
        for parameter in self.command.params:
            if parameter.param_type_name == "argument":
                value = rest.pop(str(parameter.name), None)
                if parameter.name == "recipe" and isinstance(value, Mapping):
                    value = _recipe_file(out)
                arguments += [] if value is None else [_word(self.name, str(parameter.name), value)]
                continue
            for name in [*parameter.opts, *parameter.secondary_opts]:
                if name.removeprefix("--") in rest and name.startswith("--"):
                    if name in _OURS:
                        raise InputError(f"{self.name}: {name} is for the pipeline to give; leave it out")
                    words += _words(self.name, parameter, name, rest.pop(name.removeprefix("--")))
        if rest:
            raise InputError(f"{self.name} has no option {next(iter(rest))!r}; tokensurgeon {self.name} --help has all")
        return [*words, *([] if kind.out is None else [kind.out, str(out)]), "--", *arguments]


def _recipe_file(out: Path) -> Path:
    """Where a recipe that stands in the pipeline is written."""
    return out.with_name(f"{out.name}.recipe.yaml")


def _words(command: str, parameter: Any, name: str, value: Any) -> list[str]:
    """What an option is on the command line."""
    if parameter.is_flag:
        if not isinstance(value, bool):
            raise InputError(f"{command}: {name.removeprefix('--')}: {value!r} must be true or false")
        against = [other for other in parameter.secondary_opts if name in parameter.opts]
        return [name] if value else against[:1]
    if isinstance(value, Mapping):
        value = [key if text is None else f"{key}={text}" for key, text in value.items()]
    several = value if isinstance(value, list | tuple) else [value]
    if len(several) != 1 and not parameter.multiple:
        raise InputError(f"{command}: {name.removeprefix('--')} takes one value, and has {len(several)}")
    return [word for one in several for word in (name, _word(command, name.removeprefix("--"), one))]


def _plain(name: str, value: Any) -> Any:
    """A parsed value as options take it."""
    if name == "special":
        return parse_special(value)
    if isinstance(value, list | tuple):
        return tuple(_plain("", one) for one in value)
    return str(value) if isinstance(value, Path) else value


def _word(command: str, name: str, value: Any) -> str:
    if value is None or isinstance(value, bool | list | dict):
        raise InputError(f"{command}: {name}: {value!r} must be text or a number")
    return str(value)
