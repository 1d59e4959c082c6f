"""Fixtures of merges: a cache of their own, and recipes that name a module's `models`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENSURGEON_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Path(os.environ["TOKENSURGEON_CACHE"])


@pytest.fixture
def write_recipe(models: Mapping[str, Path], tmp_path: Path) -> Callable[[Mapping[str, Any]], Path]:
    """``<name>`` stands for the directory of one of the module's `models`."""

    def write(content: Mapping[str, Any]) -> Path:
        import yaml

        text = yaml.safe_dump(content, sort_keys=False)
        for name, directory in models.items():
            text = text.replace(f"<{name}>", str(directory))
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write
