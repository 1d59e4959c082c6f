"""The pages: links lead somewhere, command lines and imports are those of the code."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

import tokensurgeon
from tokensurgeon.baselines.registry import METHODS
from tokensurgeon.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/*.md", "configs/*.md", "docs/*.md")
    for path in ROOT.glob(pattern)
)
SHELL = ("sh", "bash", "console")
LAUNCHERS = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:torchrun|accelerate launch)\b.*? -m tokensurgeon(?= )")
FOLDERS = ("benchmarks", "configs", "docs", "examples", "tests", "tokensurgeon")
COMMANDS = typer.main.get_command(app)
assert isinstance(COMMANDS, TyperGroup)


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def fences(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of every fenced block, indented ones too."""
    for match in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE):
        yield match[2], match[3]


def prose(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)


def command_lines(text: str) -> list[list[str]]:
    """Arguments of every tokensurgeon command in fenced blocks."""
    found = []
    for language, content in fences(text):
        if language not in ("", *SHELL):
            continue
        for line in content.replace("\\\n", " ").splitlines():
            plain = LAUNCHERS.sub("tokensurgeon", line.strip().removeprefix("$ "))
            if plain.startswith("tokensurgeon "):
                found.append(shlex.split(plain, comments=True)[1:])
    return found


def mentions(text: str) -> list[list[str]]:
    """The same of inline code, which may have `…` or `a|b` in it."""
    return [code.split()[1:] for code in re.findall(r"`(tokensurgeon [^`]+)`", prose(text))]


def complaints(arguments: list[str]) -> list[str]:
    """Options that the command does not have."""
    first, *rest = arguments
    name, rest = (first, rest) if first in COMMANDS.commands else ("transplant", arguments)
    if name == "transplant" and re.fullmatch(r"[a-z][a-z-]+", first):
        return [f"there is no command {first}"]
    if first == "COMMAND":
        return []
    command = COMMANDS.commands[name]
    if isinstance(command, TyperGroup):
        if not rest or rest[0] not in command.commands:
            return [f"there is no command {shlex.join(arguments)}"] if rest else []
        command, rest = command.commands[rest[0]], rest[1:]
    known = {"--help", "-h"} | {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    used = [word.strip("[]").partition("=")[0] for word in rest if re.match(r"\[?--?[a-z]", word)]
    return [f"{name} has no option {option}" for option in used if option not in known]


def slugs(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", text_of("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(text_of(page))):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link} is not there"
        if anchor:
            assert anchor in slugs(target.read_text("utf-8")), f"{page}: {link} names no heading"


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_is_named_exists(page):
    if page.endswith("LOG.md"):
        return  # history
    for code in re.findall(r"`([^`\s]+)`", prose(text_of(page))):
        if code.split("/")[0] in FOLDERS and "/" in code:
            assert list(ROOT.glob(code)), f"{page}: {code} is not there"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_the_options_that_pages_use(page):
    text = text_of(page)
    for arguments in [*command_lines(text), *mentions(text)]:
        assert not complaints(arguments), f"{page}: tokensurgeon {shlex.join(arguments)}"


def test_command_lines_are_found():
    text = "```sh\n$ tokensurgeon a \\\n  b # c\ntorchrun -n 2 -m tokensurgeon d e\n```\n```\ntokensurgeon f g\n```\n"
    assert command_lines(text) == [["a", "b"], ["d", "e"], ["f", "g"]]
    assert sum(len(command_lines(text_of(page))) for page in PAGES) >= 30


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_is_complete(page):
    """Parsed as the program does it: required arguments and options, types, choices; nothing is run."""
    for arguments in command_lines(text_of(page)):
        name, rest = (arguments[0], arguments[1:]) if arguments[0] in COMMANDS.commands else ("transplant", arguments)
        command = COMMANDS.commands[name]
        if isinstance(command, TyperGroup):
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(name, list(rest)).close()


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page):
    text = text_of(page)
    lines = [line for language, content in fences(text) if language in SHELL for line in content.splitlines()]
    lines += re.findall(r"`(make [^`]+)`", prose(text))
    for line in lines:
        words = line.strip().removeprefix("$ ").split()
        if words and words[0] == "make":
            named = takewhile(lambda word: not word.startswith("#"), (word for word in words[1:] if "=" not in word))
            assert set(named) <= targets(), f"{page}: {line}"


def test_every_benchmark_of_the_makefile_is_listed():
    assert {t for t in targets() if t.startswith("bench-")} <= set(
        re.findall(r"`make ([a-z-]+)`", text_of("CONTRIBUTING.md"))
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_extra_exists(page):
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    named = re.findall(r"'(?:\.|tokensurgeon)\[([\w,]+)\]'", text_of(page))
    assert {extra for names in named for extra in names.split(",")} <= set(extras), page


@pytest.mark.parametrize("page", PAGES)
def test_every_import_works(page):
    for language, content in fences(text_of(page)):
        if language != "python":
            continue
        imports = [node for node in ast.parse(content).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), page, "exec"), {})


def test_every_command_and_every_public_name_is_explained():
    readme, api = text_of("README.md"), text_of("docs/python.md")
    assert [name for name in COMMANDS.commands if name != "transplant" and f"`tokensurgeon {name}`" not in readme] == []
    assert [name for name in tokensurgeon.__all__ if not re.search(rf"\b{name}\b", api)] == []


def test_every_method_is_explained():
    listed = re.findall(r"^\| (`.*?) \|", text_of("docs/methods.md"), re.MULTILINE)
    assert {name for cell in listed for name in re.findall(r"`(\w+)`", cell)} == {*METHODS, "auto"}


def test_the_pipeline_of_the_guide_can_be_read_and_its_recipes_are_those_that_there_are(tmp_path):
    from tokensurgeon.cli.stages import STAGES, StageCommand
    from tokensurgeon.pipelines import read_pipeline
    from tokensurgeon.pipelines.read import shipped, with_values

    text = text_of("docs/pipelines.md")
    (example,) = (content for language, content in fences(text) if language == "yaml")
    (tmp_path / "mine.yaml").write_text(example)
    read = read_pipeline(str(tmp_path / "mine.yaml"), {"model": "m", "text": "t.txt"}, list(STAGES))
    values = dict(read.inputs)
    for stage in read.stages:
        command = StageCommand(stage.command, COMMANDS.commands[stage.command])
        command.check(with_values(stage.options, values), tmp_path / f"{stage.name}{command.suffix}")
        values[stage.name] = stage.name
    assert set(re.findall(r"^\| `(.*?)` \|", text, re.MULTILINE)) == set(shipped())
    assert all(f"`{name}`" in text for name in STAGES)


def test_the_tree_of_the_readme_is_the_packages():
    tree = next(content for _, content in fences(text_of("README.md")) if content.startswith("tokensurgeon/"))
    shown = set(re.findall(r"^  (\w+)/", tree, re.MULTILINE))
    assert shown == {path.parent.name for path in (ROOT / "tokensurgeon").glob("*/__init__.py")}


def test_the_readme_is_short():
    assert len(text_of("README.md").encode()) <= 9216
