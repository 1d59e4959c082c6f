"""Ask a server for JSON, patiently, and trust neither the length nor the shape of what it answers."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tokensurgeon.errors import InputError

__all__ = ["asked"]

_WAITS = (1.0, 2.0, 4.0)
"""Seconds before what failed by chance is asked again."""
_PATIENCE = 120.0
"""Seconds without a byte of an answer."""
_ROOM, _ENTRY = 1 << 20, 1000
"""Bytes that an answer may have: any, and beside that for each token in it."""


def asked(url: str, content: Mapping[str, Any] | None = None, entries: int = 0, remedy: str = "") -> dict[str, Any]:
    """The object that a server answers with.

    Args:
        url: Where.
        content: What is sent, if anything is.
        entries: Tokens that the answer tells of.
        remedy: What to do where it refuses to tell of as many log-probabilities.

    Raises:
        InputError: If it refuses, does not answer at the fourth time either, or answers with something else.
    """
    data, limit = None if content is None else json.dumps(content).encode(), _ROOM + _ENTRY * entries
    for wait in (*_WAITS, None):
        try:
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
                body = answer.read(limit + 1)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or wait is None:
                told = _message(error)
                raise InputError(f"{url} answers {error.code}: {told}{remedy * ('logprob' in told)}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if wait is None:
                reason = getattr(error, "reason", error)
                raise InputError(f"{url} does not answer ({reason}). Is the server running?") from error
        time.sleep(wait)
    if len(body) > limit:
        raise InputError(f"{url} answers with more than {limit:,} bytes, which is more than was asked for")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{url} does not answer with JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{url} does not answer with a JSON object")
    return found


def _message(error: urllib.error.HTTPError) -> str:
    """What a server says of its refusal."""
    text = ""
    with error, suppress(OSError, http.client.HTTPException):
        text = error.read(_ROOM).decode("utf-8", "replace")
    with suppress(ValueError, RecursionError, LookupError, TypeError, AttributeError):  # otherwise it is said as it is
        told = json.loads(text)
        text = str(told.get("error", told)["message"])
    return " ".join(text.split())[:300].rstrip(".") or str(error.reason)
