"""A whole command, timed by the operating system's own accounting."""

from __future__ import annotations

import json
import subprocess
import sys

__all__ = ["timed"]

_LAUNCH = """
import json, os, subprocess, sys, time
started = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
counted = "/proc/self/io"
io = dict(line.split(": ") for line in open(counted)) if os.path.exists(counted) else {}
print(json.dumps({
    "wall_s": round(time.perf_counter() - started, 1),
    "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
    "peak_mib": round(usage.ru_maxrss / 1024),
    "read_mib": round(usage.ru_inblock / 2048),
    "written_mib": round(usage.ru_oublock / 2048),
    "asked_mib": round(int(io.get("rchar", 0)) / 2**20),
}))
sys.exit(1 if status else 0)
"""


def timed(command: list[str]) -> dict[str, float]:
    """Wall time, processor time, peak memory, and what was read from and written to the disk by a command.

    ``read_mib`` are blocks that came from the disk, which a hole in a file has none of; ``asked_mib`` is what it asked
    for with read and copy calls, without what it mapped.

    A small process of its own starts the command: Linux counts what the starting process holds towards the peak.
    """
    run = subprocess.run([sys.executable, "-I", "-S", "-c", _LAUNCH, *command], capture_output=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{command[0]} failed: {run.stderr.decode()[-2000:]}")
    found: dict[str, float] = json.loads(run.stdout)
    return found
