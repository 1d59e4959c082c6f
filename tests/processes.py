"""Processes of their own for tests, forked from one that has imported what is slow to import.

A new interpreter takes three seconds for the libraries alone. huggingface_hub reads its environment while it is
imported, so it, and what imports it, is left to each process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

MAIN = "from tokensurgeon.cli import main; main()"
_SLOW = ["torch", "torch._dynamo", "sklearn.metrics", "tokenizers", "safetensors.torch", "jinja2", "rich.progress"]


class Process:
    """``python -c CODE ARGUMENTS``, started; its output goes to files."""

    def __init__(self, code: str, *arguments: object, env: Mapping[str, str] | None = None) -> None:
        """Start it."""
        self.output = tempfile.TemporaryDirectory()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_SLOW)
        environment = dict(os.environ if env is None else env)
        given = (code, [*map(str, arguments)], environment, Path(self.output.name))
        self._process: Any = context.Process(target=_run, args=given)
        self._process.start()
        self.pid: int = self._process.pid

    def wait(self, timeout: float = 300) -> CompletedProcess[str]:
        """What `subprocess.run` gives; a process that takes longer is killed."""
        self._process.join(timeout)
        self._process.kill()
        self._process.join()
        stdout, stderr = (Path(self.output.name, name).read_text("utf-8") for name in ("stdout", "stderr"))
        self.output.cleanup()
        return CompletedProcess([], self._process.exitcode, stdout, stderr)


def run(code: str, *arguments: object, env: Mapping[str, str] | None = None) -> CompletedProcess[str]:
    """Run ``python -c CODE ARGUMENTS`` to its end, in an environment."""
    return Process(code, *arguments, env=env).wait()


def _run(code: str, arguments: list[str], environment: dict[str, str], output: Path) -> None:
    for number, name in enumerate(("stdout", "stderr"), 1):
        with (output / name).open("wb") as file:
            os.dup2(file.fileno(), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    assert "huggingface_hub" not in sys.modules
    exec(code, {"__name__": "__main__"})
