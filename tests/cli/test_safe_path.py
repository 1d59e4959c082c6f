"""Commands that are run in a model's directory import nothing that lies there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tokensurgeon

ROOT = Path(tokensurgeon.__file__).parent.parent
THEIRS = ("transformers", "torch", "tokenizers", "typer", "rich", "click", "numpy", "jinja2", "safetensors", "mergekit")
IN_CHILD = """
import multiprocessing, sys
from tokensurgeon.cli.app import app, main
app.command("spawn")(lambda: multiprocessing.get_context("spawn").Process(target=print, args=("spawned",)).start())
main()
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A directory with a module for each name that Python or we might import, which says so where it is."""
    place = tmp_path_factory.mktemp("model")
    for name in {*sys.stdlib_module_names, *THEIRS} - {"this", "antigravity"}:
        (place / f"{name}.py").write_text("import sys; sys.stderr.write(f'{__name__} was imported\\n')\n")
    return place


def run(place, *command):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    given = [sys.executable, *map(str, command)]
    return subprocess.run(
        given, cwd=place, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "command",
    [
        "-m tokensurgeon --help",
        "-mtokensurgeon --version",
        "-Bum tokensurgeon --version",
        "-m tokensurgeon.__main__ --help",
    ],
)
def test_python_m_imports_nothing_from_where_it_is(hostile, command):
    done = run(hostile, *command.split())
    assert done.returncode == 0 and done.stdout and "was imported" not in done.stderr


@pytest.mark.slow
def test_nor_does_a_command(hostile, zoo):
    done = run(hostile, "-m", "tokensurgeon", "align", zoo["gpt"], zoo["spm"], "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["counts"] and "was imported" not in done.stderr


@pytest.mark.slow
def test_nor_do_torchruns_processes(hostile):
    launcher = ("-P", "-m", "torch.distributed.run")  # as the script torchrun, which is safe by itself
    done = run(hostile, *launcher, "--nproc-per-node", 1, "-m", "tokensurgeon", "--version")
    assert done.returncode == 0 and tokensurgeon_version() in done.stdout and "was imported" not in done.stderr


@pytest.mark.slow
def test_nor_do_processes_that_are_spawned(hostile, tmp_path):
    (tmp_path / "started.py").write_text(f"if __name__ == '__main__':\n    exec({IN_CHILD!r})\n")
    done = run(hostile, tmp_path / "started.py", "spawn")
    assert "spawned" in done.stdout and "was imported" not in done.stderr


def test_a_checkout_runs_where_it_lies():
    done = subprocess.run(
        [sys.executable, "-m", "tokensurgeon", "--version"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip() == tokensurgeon_version()


def test_a_library_leaves_the_path_alone(tmp_path):
    done = run(tmp_path, "-c", "import sys; old = list(sys.path); import tokensurgeon; assert sys.path == old")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["project", "project.run", "tokensurgeons"])
def test_another_package_that_imports_us_finds_its_neighbours(tmp_path, module):
    for name in ("project", "tokensurgeons"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("import tokensurgeon\n")
        for main in ("__main__.py", "run.py"):
            (tmp_path / name / main).write_text("import neighbour\n")
    (tmp_path / "neighbour.py").write_text("print('found')\n")
    for options in (("-m", module), (f"-m{module}",)):
        done = run(tmp_path, *options, "-m", "tokensurgeon")
        assert done.stdout == "found\n", done.stderr


def tokensurgeon_version():
    from importlib.metadata import version

    return version("tokensurgeon")
