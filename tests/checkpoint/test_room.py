"""Outputs for which there is no room, or whose shards cannot be linked: refused before any work."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.room import refuse_no_room


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
    with pytest.raises(InputError, match=r"--out .*out needs about 1\.0 TiB, and .* has .* left\. Make room, or give"):
        transplant(str(base), str(zoo["spm"]), tmp_path / "out", TransplantOptions(k=8, link="copy"))
    assert not (tmp_path / "out").exists()
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
