"""Fisher information and DAM's coefficients need no mergekit, and so must not mind a broken one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tokensurgeon

ROOT = Path(tokensurgeon.__file__).parent.parent
IMPORTS = (
    "import sys, tokensurgeon.merging.estimate.fisher, tokensurgeon.merging.estimate.dam\n"
    "assert 'tokensurgeon.merging.run' not in sys.modules\n"
    "import tokensurgeon\n"
    "tokensurgeon.estimate_fisher, tokensurgeon.train_dam, tokensurgeon.merge\n"
)


@pytest.mark.parametrize(
    "command",
    [("-c", IMPORTS), ("-m", "tokensurgeon", "fisher", "--help"), ("-m", "tokensurgeon", "dam", "--help")],
    ids=["imports", "fisher", "dam"],
)
def test_a_broken_mergekit_is_not_touched(tmp_path, command):
    (tmp_path / "mergekit").mkdir()
    (tmp_path / "mergekit" / "__init__.py").write_text("raise ImportError('made for another torch')\n", "utf-8")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    broken = [sys.executable, "-c", "import mergekit"]
    assert subprocess.run(broken, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False).returncode


def test_importing_the_methods_registers_nothing():
    code = "import sys, tokensurgeon.merging.methods\nassert not any(n.startswith('mergekit') for n in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
