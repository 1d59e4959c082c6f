"""Memory that is freed is used again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import sys
from tokensurgeon.cli.memory import give_back_freed_memory, keep_freed_memory
keep_freed_memory()
if sys.argv[1:] == ["training"]:
    give_back_freed_memory()
def use():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8): bytearray(2**26)[:: 2**12] = bytes(2**14)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
use()
print(use())
"""


needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")


@needs_glibc
@pytest.mark.parametrize(("chosen", "faults"), [({}, range(2**14)), ({"MALLOC_ARENA_MAX": "8"}, range(2**16, 2**18))])
def test_pages_are_touched_anew_only_where_the_user_decides_of_malloc(chosen, faults):
    assert int(run(chosen)) in faults


@needs_glibc
def test_a_training_gives_memory_back():
    assert int(run({}, "training")) in range(2**16, 2**18)


def run(chosen, *args):
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    line = [sys.executable, "-c", CODE, *args]
    return subprocess.run(line, env=clean | chosen, capture_output=True, text=True, check=True).stdout
