"""Texts that are read in parts, and pieces of them of which only the places are kept."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from tokensurgeon import InputError
from tokensurgeon.evaluation import texts as module
from tokensurgeon.evaluation.texts import Text, TextPieces, cut_bytes, open_texts, split_bytes

SYMBOLS = ["word", "é", " ", "\n", "日", "🙂", "\r\n", "x" * 30, "\0x", "\ufeff", "\u2028"]


@pytest.fixture
def small_parts(monkeypatch):
    """Parts that end anywhere, in the midst of characters too."""
    monkeypatch.setattr(module, "_PART", 1021)


@pytest.fixture(params=range(6))
def content(request) -> str:
    return "".join(random.Random(request.param).choices(SYMBOLS, k=2500)).removeprefix("\ufeff")


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_is_read_in_parts_is_the_text(tmp_path, content, mark):
    path = tmp_path / "t.txt"
    path.write_bytes((mark + content).encode())
    text = open_texts([path])["t.txt"]
    assert len(list(text)) > 3 and "".join(text) == "".join(text) == content  # more than once
    assert text.beginning(77) == content[:77]
    middle = content.encode()[(text.n_bytes - 50) // 2 - text.marked :][:50]
    assert text.middle(50) == middle.decode("utf-8", "ignore") and text.middle(10**6) == content
    assert text.end(100) == content.encode()[-100:].decode("utf-8", "ignore") and text.end(10**6) == content
    for limit in (1500, 1501, 1502, 1503):
        assert (
            "".join(open_texts([path], limit)["t.txt"])
            == (mark + content).encode()[:limit].decode("utf-8", "ignore")[len(mark) :]
        )


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [16, 100, 2048])
def test_pieces_that_are_read_later_are_those_of_the_whole_text(tmp_path, content, size):
    path = tmp_path / "t.txt"
    path.write_bytes(("\ufeff" + content).encode())
    whole = split_bytes(content, size)
    assert list(cut_bytes([content[i : i + 97] for i in range(0, len(content), 97)], size)) == whole
    pieces = TextPieces.of([*open_texts([path]).values(), Text.of(content)], size)
    assert list(pieces) == whole + whole
    assert list(pieces[3::5]) == (whole + whole)[3::5] and pieces[-1] == whole[-1]
    assert list(pieces.without([0, 2])) == [piece for i, piece in enumerate(whole + whole) if i not in (0, 2)]
    assert list(TextPieces.of([])) == []


@pytest.mark.usefixtures("small_parts")
def test_a_text_that_is_no_utf8_far_from_its_beginning_is_refused_by_the_byte(tmp_path):
    path = tmp_path / "t.txt"
    for content, place in ((b"a" * 5000 + b"\xff" + b"b" * 3000, 5000), (("é" * 2000 + "日").encode()[:-1], 4000)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"t\.txt is not UTF-8 .* at byte {place}\)\. Save it as UTF-8"):
            open_texts([path])


@pytest.mark.usefixtures("small_parts")
def test_reading_says_how_far_it_is(tmp_path):
    path, told = tmp_path / "t.txt", []
    path.write_text("word " * 1000)
    "".join(open_texts([path])["t.txt"].telling(lambda *news: told.append(news)))
    assert [done for _, done, _ in told] == [1021, 2042, 3063, 4084, 5000]
    assert {(stage, total) for stage, _, total in told} == {("Reading text t.txt", 5000)}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_read_once_and_gone_through_twice(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("some words\n" * 1000,), daemon=True)
    writer.start()
    text = open_texts([pipe])["pipe"]
    writer.join(10)
    assert "".join(text) == "".join(text) == "some words\n" * 1000


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(InputError, match=r"is no file\. Give a file, or a pipe"):
            open_texts([path])
