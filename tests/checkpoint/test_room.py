"""Outputs for which there is no room, or whose shards cannot be linked: refused before any work."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import processes
import pytest

from tokensurgeon import InputError
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.room import refuse_no_room

SMALL_FILES = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 24, 1 << 24))  # or a failure of this test would fill the disk
"""


def test_no_room_is_said_before_any_work(zoo, copy_of, tmp_path):
    """A shard with a hole of a terabyte."""
    base = copy_of("sharded")
    index = json.loads((base / "model.safetensors.index.json").read_text())
    size = 1 << 40
    header = json.dumps({"extra": {"dtype": "I8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (base / "extra.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    index["weight_map"]["extra"] = "extra.safetensors"
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    out = tmp_path / "out"
    done = processes.run(SMALL_FILES + processes.MAIN, base, zoo["spm"], "--k", 8, "--link", "copy", "--out", out)
    assert done.returncode == 2 and not out.exists()
    assert re.search(r"error: --out .*out needs about 1\.0 TiB, and .* has .* left\. Make room, or give", done.stderr)
    refuse_no_room(tmp_path / "out", OpenModel.open(str(base)), 700)  # linked, it costs nothing
    assert [path.name for path in tmp_path.iterdir()] == [base.name]


def test_a_hard_link_that_cannot_be_made_is_refused_before_any_work(zoo):
    if zoo["sharded"].stat().st_dev == Path("/dev/shm").stat().st_dev:
        pytest.skip("there is one file system only")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        for name, fails in (("sharded", True), ("gpt", False)):
            model, arguments = OpenModel.open(str(zoo[name])), {"link": "hard"}
            if fails:
                with pytest.raises(InputError, match=r"cannot be hard-linked into .* Use --link copy"):
                    refuse_no_room(Path(other) / "out", model, 700, **arguments)
            else:
                refuse_no_room(Path(other) / "out", model, 700, **arguments)
        assert not list(Path(other).iterdir())
