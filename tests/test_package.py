"""The house: imports run one way, the public names exist."""

from __future__ import annotations

import ast
from pathlib import Path

import processes

import tokensurgeon

ROOT = Path(tokensurgeon.__file__).parent
# A room may import from rooms before it, and from itself.
ORDER = (
    "errors", "progress", "vocabulary", "alignment", "solver", "transfer", "baselines", "checkpoint", "evaluation",
    "verification", "report", "surgery", "gguf", "readiness", "healing", "distilling", "drafting",
    "merging", "pipelines", "cli",
)  # fmt: skip


def room(name):
    return name.split(".")[1]


def imported(path):
    """Full names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
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
    assert not {(a, b) for a, b in seen if ORDER.index(b) >= ORDER.index(a)}


def test_the_solver_sees_tensors_only():
    places = [p for name in ("solver", "transfer", "baselines") for p in (ROOT / name).glob("*.py")]
    assert len(places) > 20
    for path in places:
        if path.name == "memory.py":  # asks the operating system what is free
            continue
        foreign = {n.split(".")[0] for n in imported(path)} & {
            "pathlib",
            "tokenizers",
            "transformers",
        }
        assert not foreign, path


def test_merge_methods_see_tensors_only():
    allowed = {
        "__future__",
        "collections",
        "math",
        "torch",
        "tokensurgeon.errors",
        "tokensurgeon.merging.methods.tensors",
    }
    for path in (ROOT / "merging/methods").glob("*.py"):
        if (name := path.stem) in ("__init__", "register"):
            continue
        found = set(imported(path))
        assert {n if n.startswith("tokensurgeon") else n.split(".")[0] for n in found} <= allowed, name


def test_public_names():
    assert tokensurgeon.__all__ == sorted(tokensurgeon.__all__)
    for name in tokensurgeon.__all__:
        assert getattr(tokensurgeon, name).__doc__, name


def test_rooms_that_know_no_more_than_they_need():
    """The report gets plain data; the solver needs errors alone; vocabulary and alignment know no torch."""
    ours = {
        name: {n for p in (ROOT / name).rglob("*.py") for n in imported(p)}
        for name in ("report", "solver", "vocabulary", "alignment")
    }
    assert {room(n) for n in ours["report"] if n.startswith("tokensurgeon.")} <= {"report"}
    assert {room(n) for n in ours["solver"] if n.startswith("tokensurgeon.")} <= {"solver", "errors"}
    for name in ("vocabulary", "alignment"):
        assert not {n.split(".")[0] for n in ours[name]} & {"torch", "transformers", "pathlib"}, name


def test_no_loose_modules_and_none_too_long():
    assert {p.name for p in ROOT.glob("*.py")} <= {"__init__.py", "__main__.py", "errors.py", "progress.py"}
    assert not {p.name: n for p in ROOT.rglob("*.py") if (n := len(p.read_text("utf-8").splitlines())) > 350}


def test_public_names_are_what_they_say_not_modules_of_the_same_name():
    """Importing a room first must not hide a verb: every name is asked for behind all modules."""
    code = (
        "import pkgutil, importlib, types, tokensurgeon\n"
        "for m in pkgutil.walk_packages(tokensurgeon.__path__, 'tokensurgeon.'):\n"
        "    try:\n"
        "        if not m.name.endswith('__main__'): importlib.import_module(m.name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert error.name.partition('.')[0] in ('trl', 'datasets', 'torchft'), error  # of extras\n"
        "for name in tokensurgeon.__all__:\n"
        "    assert not isinstance(getattr(tokensurgeon, name), types.ModuleType), name\n"
    )
    done = processes.run(code)
    assert done.returncode == 0, done.stderr
