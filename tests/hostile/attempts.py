"""Run a command on honest files of which one was spoiled, in bounded memory, and see what it says and leaves."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edits import Edit
from typer.testing import CliRunner

from tokensurgeon.cli.app import app

__all__ = ["COMMANDS", "Outcome", "Row", "attempt", "bounded"]

COMMANDS = {
    "align": "align base donor",
    "align unigram": "align base unigram",
    "align wordpiece": "align base wordpiece",
    "align tekken": "align base tekken",
    "align spiece": "align base spiece",
    "align gguf": "align base model.gguf",
    "transplant": "transplant base donor --k 4 --no-forward --out out",
    "run": "transplant base donor --k 4 --out out",
    "trim": "trim base --text text.txt --out out",
    "extend": "extend base --text text.txt --add 3 --out out",
    "resize": "resize base --pad-to-multiple-of 128 --out out",
    "draft": "draft base donor --prompts 2 --prompt-bytes 32 --new-tokens 3 --out out",
    "verify": "verify model --base base",
    "revert": "revert model --base base --out out",
    "adapter": "adapter adapter model --out out",
    "check": "check base --for vllm",
    "merge": "merge recipe.yaml --out out",
}
_MEMORY = 2 << 30
_SHOWN = 400


class Row(NamedTuple):
    """An input that cannot be right.

    Attributes:
        name: What is wrong with it.
        file: The file that is spoiled, or added, such as ``base/config.json``.
        edit: How.
        command: Of `COMMANDS`.
        says: A part of the line that refuses it; None where it is used.
        free: Whether it may be used as well.
    """

    name: str
    file: str
    edit: Edit
    command: str
    says: str | None
    free: bool = False

    @property
    def title(self) -> str:
        """Of the test."""
        return f"{self.command}: {self.file}: {self.name}"


class Outcome(NamedTuple):
    """What came of it.

    Attributes:
        exit: The exit code.
        line: What stderr ends with, without the directory of the files, cut where it is long.
        left: Files that were not there before.
        seconds: How long it took.
    """

    exit: int
    line: str
    left: list[str]
    seconds: float


def attempt(row: Row, world: Path, place: Path) -> Outcome:
    """Copy the honest files, spoil one, and run the command.

    Args:
        row: What to try.
        world: Holds the honest files, see `world.build`.
        place: An empty directory.
    """
    shutil.copytree(world, place, dirs_exist_ok=True)
    spoiled = place / row.file
    data = row.edit(spoiled.read_bytes() if spoiled.is_file() else b"")
    spoiled.parent.mkdir(exist_ok=True)
    spoiled.write_bytes(data)
    recipe = place / "recipe.yaml"
    recipe.write_bytes(recipe.read_bytes().replace(b"WORLD", str(place).encode()))
    before = _listed(place)
    names = {path.name for path in place.iterdir()} | {"out"}
    command, *words = COMMANDS[row.command].split()
    words = [command, *(str(place / word) if word in names else word for word in words)]
    started = time.perf_counter()
    with bounded(_MEMORY), _cache(place):
        done = CliRunner(env={"COLUMNS": "400"}).invoke(app, words)
    seconds = time.perf_counter() - started
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [""]
    left = [] if done.exit_code == 0 else sorted(_listed(place) - before)
    return Outcome(done.exit_code, lines[-1].replace(f"{place}/", "")[:_SHOWN], left, seconds)


@contextmanager
def bounded(memory: int) -> Iterator[None]:
    """Let the process have so many bytes more than it has, and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


@contextmanager
def _cache(place: Path) -> Iterator[None]:
    old = os.environ.get("TOKENSURGEON_CACHE")
    os.environ["TOKENSURGEON_CACHE"] = str(place / "cache")
    try:
        yield
    finally:
        os.environ.pop("TOKENSURGEON_CACHE")
        if old is not None:
            os.environ["TOKENSURGEON_CACHE"] = old


def _listed(place: Path) -> set[str]:
    """Files and directories but for the cache, which keeps what is whole."""
    found = (path.relative_to(place) for path in place.rglob("*"))
    return {str(path) for path in found if path.parts[0] != "cache"}
