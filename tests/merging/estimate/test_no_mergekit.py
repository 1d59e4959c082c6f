"""Fisher information and DAM's coefficients need no mergekit, and so must not mind a broken one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import processes
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
    ("code", "arguments"),
    [(IMPORTS, ()), (processes.MAIN, ("fisher", "--help")), (processes.MAIN, ("dam", "--help"))],
    ids=["imports", "fisher", "dam"],
)
def test_a_broken_mergekit_is_not_touched(tmp_path, code, arguments):
    (tmp_path / "mergekit").mkdir()
    (tmp_path / "mergekit" / "__init__.py").write_text("raise ImportError('made for another torch')\n", "utf-8")
    first = f"import sys\nassert 'mergekit' not in sys.modules\nsys.path.insert(0, {str(tmp_path)!r})\n"
    done = processes.run(first + code, *arguments)
    assert done.returncode == 0, done.stderr
    assert "made for another torch" in processes.run(first + "import mergekit").stderr


def test_importing_the_methods_registers_nothing():
    code = "import sys, tokensurgeon.merging.methods\nassert not any(n.startswith('mergekit') for n in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
