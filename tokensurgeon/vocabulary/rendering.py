"""Render a chat template in a process of its own, within limits of time, memory and length.

Templates are foreign programs. jinja2's sandbox keeps them from files and from Python, not from using up the machine:
``'a' * 10**9`` is one operation, and a filter runs in C. So a process without anything to lose renders them. It serves
all templates of its parent, and is started anew where one had to be stopped.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

__all__ = ["LONGEST_RENDERED", "Rendering", "render"]

LONGEST_RENDERED = 2**18
"""In characters, with the literals that it is given. Long ones of real models have thirty thousand."""
_LONGEST_TEXT = 2**16
_LONGEST_ANSWER = 12 * _LONGEST_TEXT + 1024
"""In bytes: JSON spells a character as ``\\uffff``, some as two of these."""
_SECONDS = 1.0
"""Of processor time, so that a busy machine changes nothing. Those of real models take some hundredths."""
_MEMORY = 2**29
"""Address space of the process; bare Python with jinja2 has 25 MB."""
_WAIT_S = 10.0 if hasattr(signal, "setitimer") else 2.0
"""By the clock: all that there is where the system does not count processor time."""
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Rendering:
    """What came of a template.

    Attributes:
        text: What it wrote; None where it cannot be used.
        problem: Why; empty where the template itself refuses such messages.
        stopped: Whether it went beyond a limit.
    """

    text: str | None
    problem: str = ""
    stopped: bool = False


@lru_cache(maxsize=32)
def render(
    template: str, messages: tuple[tuple[str, str], ...], literals: tuple[tuple[str, str], ...] = ()
) -> Rendering:
    """Render a template; equal ones once.

    Args:
        template: In Jinja.
        messages: Roles and what they say.
        literals: Special tokens by the names under which templates know them, such as ``bos_token``.
    """
    if len(template) + sum(len(name) + len(literal) for name, literal in literals) > LONGEST_RENDERED:
        return Rendering(None, f"it has more than {LONGEST_RENDERED:,} characters", stopped=True)
    said = [{"role": role, "content": content} for role, content in messages]
    answer = _process.ask({"template": template, "messages": said, "literals": dict(literals)})
    if answer.get("refused"):
        return Rendering(None)
    return Rendering(answer.get("text"), answer.get("problem", ""), answer.get("stopped", False))


class _Process:
    """The process that renders, from the first template on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer, or the ``problem`` that it did not live to give one."""
        with self._lock:
            try:
                running = self._ready()
                if running is None:
                    return {"problem": "Python cannot be started to render it", "stopped": True}
                answer = self._answer(running, json.dumps(request).encode() + b"\n", _WAIT_S)
            except BaseException:  # such as Ctrl-C: an answer that is still to come is not the next one's
                self.end()
                raise
            if answer is None or answer.get("stopped"):  # memory that it still has is not the next one's
                self.end()
            return answer or {"problem": _why(running.returncode), "stopped": True}

    def end(self) -> None:
        """Kill it, and leave neither a zombie nor open pipes."""
        running, self._running = self._running, None
        if running is not None:
            running.kill()
            running.communicate()

    def forget(self) -> None:
        """After a fork: the process is the parent's, and the pipes must end with that one."""
        running, self._running = self._running, None
        self._lock = threading.Lock()  # another thread may have held the old one
        if running is not None and running.stdin and running.stdout:
            running.stdin.close()
            running.stdout.close()
            running.returncode = 0  # nothing to wait for

    def _ready(self) -> subprocess.Popen[bytes] | None:
        if self._running is not None and self._running.poll() is None:
            return self._running
        self.end()
        script, *libraries = (find_spec(name) for name in ("tokensurgeon.vocabulary.renderer", "jinja2", "markupsafe"))
        if script is None or script.origin is None:
            return None
        places = dict.fromkeys(os.path.dirname(os.path.dirname(str(found and found.origin))) for found in libraries)  # noqa: PTH120
        limits = map(str, (_SECONDS, _MEMORY, _LONGEST_TEXT))
        # Isolated and without site: nothing is imported from the current directory, nor where the environment says.
        command = [sys.executable, "-I", "-S", script.origin, *limits, *places]
        try:
            self._running = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except (OSError, ValueError):  # no interpreter, or no further process
            return None
        if self._answer(self._running, b"", _START_S) is None:
            self.end()
        return self._running

    @staticmethod
    def _answer(running: subprocess.Popen[bytes], line: bytes, seconds: float) -> dict[str, Any] | None:
        """What it says to a line; None where it ends instead, by itself or after so many seconds."""
        assert running.stdin and running.stdout
        limit = threading.Timer(seconds, running.kill)
        limit.daemon = True
        limit.start()
        try:
            running.stdin.write(line)
            running.stdin.flush()
            answer = running.stdout.readline(_LONGEST_ANSWER)
        except BrokenPipeError:
            return None
        finally:
            limit.cancel()
        found: dict[str, Any] | None = json.loads(answer) if answer.endswith(b"\n") else None
        return found


def _why(code: int | None) -> str:
    """What ended the process."""
    if code == -getattr(signal, "SIGPROF", 0):
        return f"it takes more than {_SECONDS:g} s of processor time"
    return "it takes too long, or breaks the process that renders it"


_process = _Process()
atexit.register(_process.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.forget)
