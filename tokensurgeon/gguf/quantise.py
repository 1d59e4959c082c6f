"""Make a GGUF file smaller with llama.cpp's own program."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from tokensurgeon.checkpoint.partials import hidden_place
from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.errors import InputError, MissingDependencyError, VerificationError
from tokensurgeon.gguf.write import ExportReport, export_gguf
from tokensurgeon.progress import Progress

__all__ = ["check_quantising", "export_quantised"]

_PROGRAM, _VARIABLE = "llama-quantize", "LLAMA_QUANTIZE"


def check_quantising(kind: str) -> str:
    """The program's path: what LLAMA_QUANTIZE names, or ``llama-quantize`` of the PATH.

    Args:
        kind: As the program names it, such as ``Q8_0``.

    Raises:
        MissingDependencyError: Without gguf.
        InputError: If the program is not there, or there is no such kind.
    """
    try:
        from gguf import LlamaFileType
    except ImportError as error:
        raise MissingDependencyError("gguf", "gguf", "--quantise") from error
    known = sorted(one.name.removeprefix("MOSTLY_") for one in LlamaFileType if one.name.startswith("MOSTLY_"))
    if kind not in known:
        raise InputError(f"--quantise {kind}: known are {', '.join(known)}")
    named = os.environ.get(_VARIABLE)
    found = shutil.which(named or _PROGRAM)
    if found is None:
        raise InputError(
            f"{named or _PROGRAM} is not there. Build llama.cpp and put it on the PATH, or name it in {_VARIABLE}; or "
            "leave out --quantise"
        )
    return found


def export_quantised(
    model: str, out: Path | str, kind: str, *, overwrite: bool = False, progress: Progress | None = None
) -> ExportReport:
    """Write a model as a quantised GGUF file, by way of one in f16.

    Args:
        model: Directory or hub id.
        out: The file to write; it is old or new, never between.
        kind: As the program names it, such as ``Q8_0``.
        overwrite: Replace a file that is there.
        progress: Called with (stage, done, total).

    Returns:
        As `export_gguf` gives it, of the quantised file.

    Raises:
        MissingDependencyError: Without gguf.
        InputError: If the program or the kind is not there, or the model cannot be exported.
        VerificationError: If the program fails; its last line says why.
    """
    program, target = check_quantising(kind), Path(out).expanduser().absolute()
    check_target(target, overwrite, (model,), suffix=".gguf", option="--gguf")
    target.parent.mkdir(parents=True, exist_ok=True)
    with hidden_place(target, "partial") as room, staged(target, overwrite, suffix=".gguf", option="--gguf") as work:
        whole = room / "whole.gguf"
        report = export_gguf(model, whole, progress=progress)
        done = subprocess.run(
            [program, str(whole), str(work), kind], capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["it says nothing"]
            raise VerificationError(f"{program} could not make {kind} of {model}: {lines[-1].strip()}")
        report = replace(report, out=target, dtype=kind, bytes=work.stat().st_size)
    return report
