"""Render chat templates as they are asked for on stdin, one line of JSON each, and answer on stdout.

This is a script for a process of its own, see `tokensurgeon.vocabulary.rendering`: it imports nothing of ours, and
whatever a template does ends with it.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

_SHOWN = 200
_ABSENT: dict[str, Any] = {"tools": None, "documents": None, "add_generation_prompt": False}
"""What transformers defines besides the messages."""


class _Refused(Exception):  # noqa: N818 (no error: a template says so of messages that it does not take)
    """A template calls ``raise_exception``."""


def main() -> None:
    """Answer until stdin ends, which it does with the parent; the limits are the arguments."""
    seconds, memory, longest = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sys.path += sys.argv[4:]
    environment = _environment()  # what is slow to import is imported before there are limits
    _limit(memory)
    _answer({})
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        _alarm(seconds)
        answer = _rendered(environment, request, longest)
        _alarm(0)
        _answer(answer)


def _environment() -> Any:
    """What transformers gives to templates, as far as a conversation needs it."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag with which templates mark what an assistant says: what is between is rendered as it is."""

        tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: object = "") -> None:
        raise _Refused(str(message)[:_SHOWN])

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now(tz=UTC).strftime(form)
    return environment


def _limit(memory: int) -> None:
    """Bound the memory, where the system can; Ctrl-C is the parent's to see to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        with suppress(ValueError, OSError):  # macOS has the first one by name only
            resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _alarm(seconds: float) -> None:
    """Let the system end this process after so much processor time, also in the midst of a filter; 0 takes it back."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _rendered(environment: Any, request: dict[str, Any], longest: int) -> dict[str, Any]:
    """``text``, or ``problem`` and whether a limit was what stopped it."""
    variables = {"messages": request["messages"], **_ABSENT, **request["literals"]}
    parts: list[str] = []
    length = 0
    try:
        for part in environment.from_string(request["template"]).generate(**variables):
            length += len(part)
            if length > longest:
                return {"problem": f"it writes more than {longest:,} characters", "stopped": True}
            parts.append(part)
        text = "".join(parts)
        text.encode()  # half a surrogate pair is no text that a tokenizer takes
        return {"text": text}
    except _Refused as error:
        return {"problem": str(error), "refused": True}
    except MemoryError:
        return {"problem": "it takes too much memory", "stopped": True}
    except Exception as error:  # a template is foreign code, which may raise whatever it likes
        what = " ".join(f"{type(error).__name__}: {str(error)[:_SHOWN]}".split())
        return {"problem": what, "stopped": isinstance(error, RecursionError)}


def _answer(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
