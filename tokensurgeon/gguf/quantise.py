"""Make a GGUF file smaller with llama.cpp's own program."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tokensurgeon.errors import InputError, VerificationError

__all__ = ["find_quantiser", "quantise"]

_PROGRAM, _VARIABLE = "llama-quantize", "LLAMA_QUANTIZE"


def find_quantiser() -> str:
    """The program's path: what LLAMA_QUANTIZE names, or ``llama-quantize`` of the PATH.

    Raises:
        InputError: If it is not there.
    """
    named = os.environ.get(_VARIABLE)
    found = shutil.which(named or _PROGRAM)
    if found is None:
        raise InputError(
            f"{named or _PROGRAM} is not there. Build llama.cpp and put it on the PATH, or name it in {_VARIABLE}; or "
            "leave out --quantise"
        )
    return found


def quantise(source: Path, out: Path, kind: str) -> None:
    """Write a quantised copy.

    Args:
        source: A GGUF file in f32, f16 or bf16.
        out: The file to write.
        kind: As the program names it, such as ``Q8_0``.

    Raises:
        InputError: If the program is not there.
        VerificationError: If it fails; its last line says why.
    """
    done = subprocess.run(
        [find_quantiser(), str(source), str(out), kind], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        out.unlink(missing_ok=True)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["it says nothing"]
        raise VerificationError(f"{_PROGRAM} could not make {kind} of {source}: {lines[-1].strip()}")
