"""What tests of distilling share."""

from __future__ import annotations

import pytest

from tokensurgeon import TransplantOptions, transplant


@pytest.fixture(scope="session")
def transplanted(zoo, tmp_path_factory):
    """A student with the teacher's tokenizer."""
    place = tmp_path_factory.mktemp("distil") / "student"
    transplant(str(zoo["gpt"]), str(zoo["untied-spm"]), place, TransplantOptions(k=8))
    return place
