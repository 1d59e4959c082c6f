"""Text is UTF-8 on every machine."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import processes
import pytest

import tokensurgeon
from tokensurgeon import InputError
from tokensurgeon.checkpoint.text import read_json, read_json_if_there, read_text, text_lines, write_json, write_text

ROOT = Path(tokensurgeon.__file__).parent
STOP = "<｜end▁of▁sentence｜>"
C_LOCALE = """
import locale
locale.setlocale(locale.LC_ALL, "C")  # files without an encoding go by it from here on
print(open("/dev/null").encoding, flush=True)
"""


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"


def without_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the locale's encoding."""
    texts = [a.value for a in (*call.args, *(k.value for k in call.keywords)) if isinstance(a, ast.Constant)]
    encoded = "utf-8" in texts or any(k.arg == "encoding" for k in call.keywords)
    if isinstance(call.func, ast.Name):
        return call.func.id == "open" and not encoded and not any("b" in str(t) for t in texts)
    if not isinstance(call.func, ast.Attribute):
        return False
    if call.func.attr == "open":
        of = call.func.value.id if isinstance(call.func.value, ast.Name) else ""
        other = of[:1].isupper() or of == "os"  # Checkpoint.open(...), and os.open, which knows bytes only
        return not other and not encoded and not any("b" in str(t) for t in texts)
    return call.func.attr in ("read_text", "write_text") and not encoded


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("open(path)", True),
        ("path.open()", True),
        ("path.open('w')", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path, 'rb')", False),
        ("read_text(path)", False),
        ("Checkpoint.open(path)", False),
        ("os.open(path, os.O_RDONLY)", False),
    ],
)
def test_what_counts_as_without_encoding(code, wrong):
    assert without_encoding(ast.parse(code).body[0].value) == wrong


def test_no_text_is_read_or_written_without_encoding():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and without_encoding(node)
    ]
    assert found == []


def test_a_plain_c_locale_changes_nothing(copy_of, zoo, tmp_path):
    """Python falls back to ASCII there, and tokens are seldom ASCII."""
    donor, out = copy_of("gpt"), tmp_path / "out"
    path = donor / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "note": STOP}, ensure_ascii=False), "utf-8")
    (donor / "chat_template.jinja").write_text("{{ '" + STOP + "' }}", "utf-8")
    done = processes.run(C_LOCALE + processes.MAIN, zoo["untied"], donor, "--out", out, "--method", "mean")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in ("ANSI_X3.4-1968", "US-ASCII")
    assert read_json(out / "tokenizer_config.json")["note"] == STOP
    assert STOP in read_text(out / "chat_template.jinja")


def test_what_is_not_json(tmp_path):
    path = tmp_path / "x.json"
    assert read_json_if_there(path) == {}
    for data, message in (
        (b'{"a": "\xff"}', r"x\.json is not UTF-8 \(invalid start byte at byte 7\)\. Save it as UTF-8"),
        ('{"a": 1}'.encode("utf-16"), r"x\.json is not UTF-8, it looks like UTF-16"),
        (b'{"a":' * 100_000, r"x\.json is not valid JSON \(maximum recursion"),
        (b"{", r"x\.json is not valid JSON \(.*\)\. Fetch it again"),
        (b"[]", r"x\.json must hold a JSON object"),
        (b"", r"x\.json is empty\. Fetch it again"),
        (POINTER, r"x\.json is a git-LFS pointer, not the file itself\. Run git lfs pull in "),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_json(path, "Fetch it again")
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"x\.json is not UTF-8"):
        read_text(path)


def test_what_is_written_comes_back(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"token": STOP})
    assert path.read_bytes() == f'{{\n  "token": "{STOP}"\n}}\n'.encode()
    assert read_json(path) == {"token": STOP}
    write_text(path, STOP)
    assert read_text(path) == STOP


def test_a_directory_in_a_files_place_is_named(tmp_path):
    (tmp_path / "x.json").mkdir()
    for read in (read_json, read_json_if_there):
        with pytest.raises(InputError, match=r"x\.json cannot be read \(Is a directory\)"):
            read(tmp_path / "x.json")


def test_a_byte_order_mark_is_no_text_and_lines_end_at_newlines_only(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffa\u2028b\r\n c\x0bd\x0ce\x85f\n\ng\rh\n".encode())
    assert text_lines(path) == ["a\u2028b", " c\x0bd\x0ce\x85f", "", "g\rh"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_utf_16_is_called_so(tmp_path, encoding):
    for text in ("one\ntwo\n", "日本語" * (encoding == "utf-16")):  # which has no zero bytes, but a mark
        (tmp_path / "x.txt").write_text(text, encoding)
        if text:
            with pytest.raises(InputError, match=r"x\.txt is not UTF-8, it looks like UTF-16\. Save it as UTF-8"):
                read_text(tmp_path / "x.txt")
