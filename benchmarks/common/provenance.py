"""Where a result comes from: versions, hardware, command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("tokensurgeon", "torch", "transformers", "tokenizers", "numpy")


def provenance(experiment: str) -> dict[str, Any]:
    """Plain data that every result carries."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "experiment": experiment,
        "command": "python -m " + " ".join([f"benchmarks.experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
