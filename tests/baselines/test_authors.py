"""WECHSEL and FOCUS against the packages of their authors, on the same vectors."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tokensurgeon.baselines import make_method
from tokensurgeon.transfer.protocol import Auxiliary, BaseRows, DonorSpace, Resources, all_rows

PYTHON = Path(__file__).parents[2] / ".venv-authors/bin/python"


@pytest.mark.peers
def test_the_rows_are_the_authors(tmp_path):
    if not PYTHON.exists():
        pytest.fail("run `make authors`: .venv-authors is missing")
    generator = np.random.default_rng(0)
    common = generator.standard_normal(30)
    sources, targets = ((generator.standard_normal((n, 30)) + common).astype(np.float32) for n in (400, 50))
    base = generator.standard_normal((400, 20)).astype(np.float32)
    np.savez(tmp_path / "problem.npz", sources=sources, targets=targets, base=base)
    script = Path(__file__).with_name("authors.py")
    subprocess.run([PYTHON, script, tmp_path / "problem.npz", tmp_path / "out.npz"], check=True)
    theirs = np.load(tmp_path / "out.npz")
    vectors = [torch.from_numpy(rows) for rows in (targets, sources)]
    rows = BaseRows(torch.from_numpy(base), torch.from_numpy(base), "input")
    auxiliary = Auxiliary(*vectors, torch.arange(400))
    for name in ("wechsel", "focus"):
        for options, space in (({}, DonorSpace(*vectors)), ({"space": "fasttext"}, None)):
            space = space or DonorSpace(torch.zeros(50, 3), torch.zeros(400, 3), auxiliary=auxiliary)
            ours = all_rows(make_method(name, options).fit(space, Resources()), rows)
            np.testing.assert_allclose(ours.numpy(), theirs[name], rtol=2e-4, atol=2e-5)
