"""One transplanted model for all tests of verification, and a copy to break."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tokensurgeon import TransplantOptions, transplant


@pytest.fixture(scope="session")
def good(zoo, tmp_path_factory):
    out = tmp_path_factory.mktemp("verify") / "good"
    transplant(str(zoo["gpt"]), str(zoo["spm"]), out, TransplantOptions(k=8))
    return out


@pytest.fixture
def model(good, tmp_path):
    return Path(shutil.copytree(good, tmp_path / "model"))
