"""Processes of their own for tests, forked from one that has imported what is slow to import.

A new interpreter takes four seconds for the libraries alone. huggingface_hub reads the environment while it is
imported, so each process lets it do so again.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from huggingface_hub import constants

MAIN = "from tokensurgeon.cli import main; main()"
MODULE = "import runpy, sys; del sys.argv[0]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
"""``python -m``: the module's name is the first argument."""
_SLOW = [
    "transformers.models.llama.modeling_llama", "transformers.tokenization_utils_sentencepiece",
    "transformers.tokenization_utils_tokenizers", "sklearn.metrics", "accelerate", "typer.main", "pydantic.main",
    "pydoc_data.topics", "tokensurgeon.surgery.transplant",
]  # fmt: skip


def forget_accelerate() -> None:
    """Let a training in this process begin as the first one would: accelerate keeps one state per process."""
    from accelerate.state import AcceleratorState, PartialState

    for state in (AcceleratorState, PartialState):
        state._reset_state()


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


def ranks(number: int, code: str, *arguments: object, env: Mapping[str, str] | None = None) -> list[Any]:
    """Run the same in several processes that find each other, by the variables that ``torchrun`` sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {**(os.environ if env is None else env), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    variables |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number), "OMP_NUM_THREADS": "1"}
    started = [Process(code, *arguments, env=variables | {"RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(number)]
    return [process.wait() for process in started]


def _run(code: str, arguments: list[str], environment: dict[str, str], output: Path) -> None:
    for number, name in enumerate(("stdout", "stderr"), 1):
        with (output / name).open("ab") as file:
            os.dup2(file.fileno(), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    importlib.reload(constants)
    exec(code, {"__name__": "__main__"})
