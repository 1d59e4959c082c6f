"""Outputs that are directories, and outputs that are files: what is refused, and what is left behind."""

from __future__ import annotations

import pytest

from tokensurgeon import InputError
from tokensurgeon.checkpoint.staging import check_target, staged


@pytest.fixture
def place(tmp_path):
    """A folder with one of everything that may be in the way."""
    for name in ("empty", "full", "folder.gguf"):
        (tmp_path / name).mkdir()
    for name in ("full/mine.txt", "there.gguf", "plain"):
        (tmp_path / name).write_text("old")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "suffix", "message"),
    [
        ("plain", None, "is a file; --x must be a directory"),
        ("full", None, "exists and is not empty; give another --x, or --overwrite"),
        ("plain/below/out", None, "plain is not a directory that you can write to"),
        ("m.bin", ".gguf", r"must be a file that ends in .gguf; call it m.gguf"),
        ("folder.gguf", ".gguf", "is a directory; name a file"),
        ("there.gguf", ".gguf", "exists; give another --x, or --overwrite"),
        ("plain/below/m.gguf", ".gguf", "plain is not a directory that you can write to"),
    ],
)
def test_places_that_are_refused(place, name, suffix, message):
    with pytest.raises(InputError, match=message):
        check_target(place / name, False, suffix=suffix, option="--x")


@pytest.mark.parametrize(
    ("name", "suffix"), [("full", None), ("empty", None), ("new", None), ("there.gguf", ".gguf"), ("a/b.gguf", ".gguf")]
)
def test_places_that_are_taken(place, name, suffix):
    check_target(place / name, True, suffix=suffix)


@pytest.mark.parametrize(("name", "suffix"), [("full", None), ("there.gguf", ".gguf")])
def test_an_input_is_never_replaced(place, name, suffix):
    with pytest.raises(InputError, match="would replace"):
        check_target(place / name, True, ["org/model", str(place / name)], suffix=suffix)


@pytest.mark.parametrize("suffix", [None, ".gguf"])
def test_an_output_is_old_or_new(tmp_path, suffix):
    """New where all goes well; old, with nothing beside it, where it does not, or where another came first."""
    out = tmp_path / "deep" / f"out{suffix or ''}"

    def write(text, overwrite):
        with staged(out, overwrite, suffix=suffix) as work:
            assert not out.exists() or read() == "first"
            (work if suffix else work / "f").write_text(text)
            if text == "broken":
                raise KeyboardInterrupt

    def read():
        return (out if suffix else out / "f").read_text()

    write("first", False)
    with pytest.raises(KeyboardInterrupt):
        write("broken", True)
    with pytest.raises(InputError, match="--overwrite"):
        write("late", False)
    assert read() == "first" and [p.name for p in out.parent.iterdir()] == [out.name]
    assert out.stat().st_mode & 0o777 == (0o644 if suffix else 0o755)
    write("second", True)
    assert read() == "second" and [p.name for p in out.parent.iterdir()] == [out.name]
