"""Prompts of code and prose to go on from, and text of the same kinds, but of other documents, to learn from."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

from benchmarks.common import texts

__all__ = ["prompts", "training_text"]

_CODE = (
    "argparse", "bisect", "calendar", "configparser", "csv", "difflib", "fractions", "heapq", "ipaddress", "pprint",
    "queue", "sched", "shlex", "statistics", "string", "textwrap", "timeit", "zipfile",
)  # fmt: skip
"""Modules of Python's standard library that nothing is learnt from."""
_PROSE_BYTES, _ITEMS = 1 << 17, 100
"""The beginnings of WikiText-2 and GSM8K, that nothing is learnt from."""


def prompts(n: int, n_bytes: int) -> list[str]:
    """``n`` prompts of about ``n_bytes``, by turns from a module's middle, from WikiText-2, another module, GSM8K.

    Args:
        n: How many.
        n_bytes: Of each; word problems have their own length.
    """
    directory = texts.required_directory()
    wikitext = (directory / "wikitext2_valid.txt").read_text()[:_PROSE_BYTES]
    problems = _problems(directory)[:_ITEMS]
    found = []
    for number in range(n):
        turn = number // 2
        if number % 2 == 0:
            code = _module(_CODE[turn % len(_CODE)])
            found.append(_cut(code, len(code) // 3 + 4 * n_bytes * (turn // len(_CODE)), n_bytes))
        elif turn % 2:
            found.append(f"Question: {problems[turn // 2]}\nAnswer:")
        else:
            found.append(_cut(wikitext, 4 * n_bytes * turn + 1, n_bytes))
    return found


def training_text(out: Path, n_bytes: int) -> None:
    """Write ``n_bytes`` of each: modules, WikiText-2 and word problems, none that `prompts` are of."""
    directory = texts.required_directory()
    library = Path(sysconfig.get_paths()["stdlib"])
    code = "\n".join(p.read_text("utf-8") for p in sorted(library.glob("*.py")) if p.stem not in _CODE)
    wikitext = (directory / "wikitext2_valid.txt").read_text()[_PROSE_BYTES:]
    problems = "\n\n".join(f"Question: {text}\nAnswer:" for text in _problems(directory)[_ITEMS:])
    for name, text in (("code", code), ("prose", wikitext), ("problems", problems)):
        (out / f"{name}.txt").write_bytes(text.encode()[:n_bytes].decode("utf-8", "ignore").encode())


def _problems(directory: Path) -> list[str]:
    with (directory / "gsm8k_dev.jsonl").open() as file:
        return [json.loads(line)["context"] for line in file]


def _module(name: str) -> str:
    library = Path(sysconfig.get_paths()["stdlib"])
    path = library / f"{name}.py"
    return (path if path.is_file() else library / name / "__init__.py").read_text("utf-8")


def _cut(text: str, begin: int, n_bytes: int) -> str:
    """From the line behind ``begin`` on, to the end of a line, or of a word where lines are long."""
    begin = text.find("\n", begin % max(1, len(text) - 2 * n_bytes)) + 1
    piece = text[begin : begin + n_bytes]
    end = piece.rfind("\n")
    return piece[: end + 1] if end > n_bytes // 2 else piece[: piece.rfind(" ")]
