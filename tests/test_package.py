"""The house: imports run one way, the public names exist."""

from __future__ import annotations

import ast
from pathlib import Path

import tokensurgeon

ROOT = Path(tokensurgeon.__file__).parent
# A room may import from rooms before it, and from itself.
ORDER = (
    "errors", "finite", "vocabulary", "alignment", "segmentation", "budget", "scan", "omp", "sharding", "transfer",
    "states", "reconstruct", "rows", "heldout",
    "calibrate", "checkpoint", "config", "record", "manifest", "evaluation", "export", "readiness", "trial", "verify",
    "report", "pair", "fasttext", "body", "choose", "rebuild", "output", "pipeline", "revert", "adapter", "heal",
    "surgery", "trim", "grown", "extend", "merging", "merge", "cli",
)  # fmt: skip
# Types only, for annotations.
ALLOWED = {("report", "pipeline")}


def room(name):
    return name.split(".")[1]


def imported(path):
    """Full names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_run_one_way():
    seen = set()
    for path in ROOT.rglob("*.py"):
        here = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if here not in ("__init__", "__main__"):
            seen |= {(here, room(n)) for n in imported(path) if n.startswith("tokensurgeon.") and room(n) != here}
    assert len(seen) > 20
    assert not {(a, b) for a, b in seen - ALLOWED if ORDER.index(b) >= ORDER.index(a)}


def test_the_solver_sees_tensors_only():
    rooms = ("finite", "scan", "omp", "sharding", "transfer", "states", "reconstruct", "rows", "heldout")
    for path in (p for name in rooms for p in (ROOT / f"{name}.py", *(ROOT / name).glob("*.py")) if p.is_file()):
        foreign = {n.split(".")[0] for n in imported(path)} & {
            "pathlib",
            "tokenizers",
            "transformers",
        }
        assert not foreign, path


def test_merge_methods_see_tensors_only():
    allowed = {"__future__", "collections", "math", "torch", "tokensurgeon.errors", "tokensurgeon.merging.tensors"}
    for name in ("dam", "fisher", "metrics", "opcm", "pcb", "widen", "tensors"):
        found = set(imported(ROOT / "merging" / f"{name}.py"))
        assert {n if n.startswith("tokensurgeon") else n.split(".")[0] for n in found} <= allowed, name


def test_public_names():
    assert tokensurgeon.__all__ == sorted(tokensurgeon.__all__) and len(tokensurgeon.__all__) <= 12
    for name in tokensurgeon.__all__:
        assert getattr(tokensurgeon, name).__doc__, name
