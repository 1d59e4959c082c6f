"""Outputs that replace others: in one step, flushed, and whole whatever kills the process or cuts the power."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
from places import MODEL, fill

from tokensurgeon import InputError
from tokensurgeon.checkpoint import durable
from tokensurgeon.checkpoint.partials import hidden_place, recover
from tokensurgeon.checkpoint.staging import check_target, staged


@pytest.fixture(params=["exchange", pytest.param("two renames", marks=pytest.mark.slow)])
def swap(request, monkeypatch):
    """Both ways to replace a directory."""
    if request.param == "two renames":
        monkeypatch.setattr(durable, "_exchange", lambda *_: False)
    elif sys.platform != "linux":
        pytest.skip("renameat2 is Linux's")
    return request.param


def replace(out, content, suffix=None):
    with staged(out, True, suffix=suffix) as work:
        if suffix:
            work.write_text(f"GGUF {content}")
        else:
            for name in MODEL:
                (work / name).write_text(json.dumps({"model_type": content}))


def content_of(out):
    found = {json.loads((out / name).read_text())["model_type"] for name in MODEL}
    assert len(found) == 1
    return found.pop()


def test_a_failed_swap_restores_the_old_output(tmp_path, monkeypatch):
    replace(tmp_path / "out", "first")
    monkeypatch.setattr(durable, "_exchange", lambda *_: False)
    real = type(tmp_path).rename

    def fail(self, target):
        if ".partial-" in str(self):
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(type(tmp_path), "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        replace(tmp_path / "out", "second")
    assert content_of(tmp_path / "out") == "first" and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("twice", [False, True])
def test_an_interrupt_between_two_renames_keeps_the_old_output(tmp_path, monkeypatch, twice):
    """Once: it is put back at once. Once more while that is done: it lies aside, and the next run puts it back."""
    out = tmp_path / "out"
    replace(out, "first")
    monkeypatch.setattr(durable, "_exchange", lambda *_: False)
    real = type(out).rename

    def rename(self, target):
        if ".old-" in str(self) and twice:
            raise KeyboardInterrupt
        real(self, target)
        if self == out:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(out), "rename", rename)
        replace(out, "second")
    assert out.exists() != twice
    recover(out)
    assert content_of(out) == "first" and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP])
@pytest.mark.usefixtures("swap")
def test_a_file_system_that_flushes_no_directories_takes_the_output(tmp_path, monkeypatch, number):
    real, refused = os.fsync, stat.S_ISDIR

    def fsync(place):
        if refused(os.fstat(place).st_mode):
            raise OSError(number, os.strerror(number))
        real(place)

    monkeypatch.setattr(os, "fsync", fsync)
    for content in ("first", "second"):
        replace(tmp_path / "out", content)
        assert content_of(tmp_path / "out") == content
    refused = stat.S_ISREG  # that of a file is a failure, and so is any other of a directory
    with pytest.raises(OSError, match=os.strerror(number)):
        replace(tmp_path / "out", "third")
    refused, number = stat.S_ISDIR, errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        replace(tmp_path / "out", "third")
    assert content_of(tmp_path / "out") == "second"


def test_windows_flushes_files_that_can_be_written_and_opens_them_so(tmp_path, monkeypatch):
    fill(tmp_path / "out", *MODEL, "read-only")
    (tmp_path / "out/read-only").chmod(0o400)
    real, opened = os.open, {}
    monkeypatch.setattr(durable, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(os, "open", lambda path, flags: opened.update({path.name: flags}) or real(path, flags))
    durable.flush(tmp_path / "out")
    assert opened == dict.fromkeys(MODEL, os.O_RDWR)


@pytest.mark.parametrize("able", [True, False])
def test_macos_flushes_the_cache_of_the_device_where_it_can(tmp_path, monkeypatch, able):
    import fcntl

    fill(tmp_path / "out", *MODEL)
    asked, flushed = [], []

    def ask(_place, command):
        asked.append(command)
        if not able:
            raise OSError(errno.ENOTSUP, "Not supported")

    monkeypatch.setattr(durable, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", ask)
    monkeypatch.setattr(os, "fsync", flushed.append)
    durable.flush(tmp_path / "out")
    assert asked == [51] * 3 and len(flushed) == (0 if able else 3)


@pytest.mark.parametrize("suffix", [None, ".gguf"])
@pytest.mark.usefixtures("swap")
def test_all_is_flushed_before_it_is_moved_and_the_move_after(tmp_path, monkeypatch, suffix):
    real_exchange = durable._exchange
    out, done = tmp_path / f"out{suffix or ''}", []
    replace(out, "first", suffix)
    real = os.fsync

    def fsync(number):
        done.append(os.fstat(number).st_ino)
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    with staged(out, True, suffix=suffix) as work:
        if suffix:
            work.write_text("GGUF second")
        else:
            fill(work, *MODEL, "additional_chat_templates/tool.jinja")
        names = {path.stat().st_ino for path in (work, *work.rglob("*"))}
        seen = []
        monkeypatch.setattr(durable, "_exchange", lambda *paths: seen.append(set(done)) or real_exchange(*paths))
        for kind in ("rename", "replace"):
            moved = getattr(type(out), kind)
            monkeypatch.setattr(type(out), kind, lambda *paths, m=moved: seen.append(set(done)) or m(*paths))
    assert seen and seen[0] >= names  # contents and names of all files, before the first move
    assert done[-1] == tmp_path.stat().st_ino
    assert not list(tmp_path.glob(".*"))


def test_partials_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path, caplog):
    out = tmp_path / "out"
    dead = fill(tmp_path / ".out.partial-0123456789ab", "model/model.safetensors")
    strangers = [fill(tmp_path / name, "f") for name in (".out.partial-mine", ".out2.partial-0123456789ab")]
    (tmp_path / ".out.partial-abcdefabcdef").symlink_to(strangers[0])
    with staged(out, False) as work:
        fill(work, *MODEL)
        check_target(out, False)  # as another process does, that is to write there too
        assert work.exists() and not dead.exists()
    assert f"removing {dead}, which a run that was killed left behind" in caplog.text
    assert caplog.text.count("removing") == 1 and len(caplog.records) == 1
    assert all((place / "f").exists() for place in strangers) and (tmp_path / ".out.partial-abcdefabcdef").is_symlink()


def test_what_a_kill_left_aside_is_put_back(tmp_path, caplog):
    """Between the two renames that replace an output where names cannot be exchanged."""
    aside = fill(tmp_path / ".out.old-0123456789ab/model", *MODEL).parent
    with pytest.raises(InputError, match="--overwrite"):
        check_target(tmp_path / "out", False)
    assert (tmp_path / "out/config.json").is_file() and not aside.exists()
    assert f"{tmp_path / 'out'} is put back, which a run that was killed had moved aside" in caplog.text


def test_a_place_is_locked_until_it_is_gone(tmp_path):
    with hidden_place(tmp_path / "out", "partial") as place:
        recover(tmp_path / "out")
        assert place.is_dir()
    assert not list(tmp_path.iterdir())


KILLED = """
import json, os, signal, sys
from pathlib import Path
from tokensurgeon.checkpoint import durable
from tokensurgeon.checkpoint.staging import check_target, staged

place, exchanges = Path(sys.argv[1]), sys.argv[2] == "exchange"
out = place / "out"
count, limit, gone = 0, None, 0

def step(event, _arguments=()):
    global count, gone
    gone += not out.exists()
    if limit is not None and event.startswith(("os.", "shutil.", "open", "fcntl.", "test.")):
        count += 1
        if count == limit:
            os.kill(os.getpid(), signal.SIGKILL)

def counted(real):
    def call(*arguments):
        step("test.before")
        done = real(*arguments)
        step("test.after")
        return done
    return call

os.fsync = counted(os.fsync)
durable._exchange = counted(durable._exchange if exchanges else lambda *_: False)
sys.addaudithook(step)

def write(content):
    check_target(out, True)
    with staged(out, True) as work:
        for name in ("config.json", "model.safetensors"):
            with (work / name).open("w") as file:
                for part in ('{"model_type": "', content, '"}'):
                    step("test.write")
                    file.write(part)
                    file.flush()

def held():
    return {json.loads((out / name).read_text())["model_type"] for name in ("config.json", "model.safetensors")}

write("old")
seen, number = [], 0
while True:
    number += 1
    if not (child := os.fork()):
        limit = number
        write("new")
        os._exit(0)
    killed = os.waitpid(child, 0)[1] == signal.SIGKILL
    left = sorted(p.name for p in place.iterdir() if p.name != "out")
    check_target(out, True)
    assert len(found := held()) == 1 and found <= {"old", "new"}, (number, found)
    assert [p.name for p in place.iterdir()] == ["out"], (number, list(place.iterdir()))
    seen.append((bool(left), *found))
    if not killed:
        break
    if "new" in found:
        write("old")
gone = 0
write("new")
print(number, len({one for one in seen}), sum(one[0] for one in seen), seen[-1][1], gone)
"""


@pytest.mark.slow
def test_a_kill_at_any_step_loses_nothing_and_leaves_nothing_for_long(swap):
    """Before each write, rename, flush, and all else that touches files: the output is the old or the new, whole.

    It is there at any time where two names can be exchanged.
    """
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where flushing takes no time
    with tempfile.TemporaryDirectory(dir=memory) as place:
        done = processes.run(KILLED, place, swap)
    assert done.returncode == 0, done.stderr
    steps, kinds, partials, last, gone = done.stdout.split()
    assert int(steps) > 40 and int(kinds) >= 3 and int(partials) > 30 and last == "new"
    assert (int(gone) == 0) == (swap == "exchange")


@pytest.mark.slow
@pytest.mark.usefixtures("all_read")
def test_a_kill_of_a_whole_transplant_loses_nothing(zoo, tmp_path):
    """Killed at steps from all over the run, with an output that is there already."""
    out = tmp_path / "place/out"
    command = [zoo["gpt"], zoo["spm"], "--k", 8, "--out", out, "--overwrite"]
    shutil.copytree(zoo["untied"], out)
    counted = """
import os, signal, sys
limit, count = int(sys.argv.pop(1)), 0
place = os.path.dirname(sys.argv[sys.argv.index("--out") + 1])
def step(event, arguments):
    global count
    if event.startswith(("os.", "shutil.", "open")) and place in str(arguments):
        count += 1
        if count == limit:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(step)
from tokensurgeon.cli import main
try:
    main()
finally:
    print(count, file=sys.stderr)
"""

    def digests():
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*.safetensors"))}

    old, killed, seen = digests(), 0, set()
    steps = int(processes.run(counted, 0, *command).stderr.split()[-1])
    new = digests()
    shutil.rmtree(out)
    shutil.copytree(zoo["untied"], out)
    for limit in (*range(1, steps, max(1, steps // 12)), steps):  # the last is behind the exchange
        done = processes.run(counted, limit, *command)
        killed += done.returncode == -9
        seen.add(digests() == new)
        assert digests() in (old, new)
        check_target(out, True)
        assert [path.name for path in out.parent.iterdir()] == ["out"]
        shutil.rmtree(out)
        shutil.copytree(zoo["untied"], out)
    assert killed > 8 and seen == {True, False}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
def test_a_power_cut_finds_the_old_or_the_new(tmp_path):
    """A real file system: what its device holds at a moment is what a power cut leaves, unflushed writes are lost."""
    live, after = tmp_path / "live", tmp_path / "after"

    def sh(*command):
        return subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)

    if not (shutil.which("mkfs.ext4") and shutil.which("losetup")):
        pytest.skip("needs mkfs.ext4 and losetup")
    sh("truncate", "-s", "24M", tmp_path / "disk")
    sh("mkfs.ext4", "-q", tmp_path / "disk")
    live.mkdir(), after.mkdir()
    if sh("mount", "-o", "loop,commit=300", tmp_path / "disk", live).returncode:
        pytest.skip("cannot mount here")

    def cut():
        """What is there when the power comes back."""
        shutil.copyfile(tmp_path / "disk", tmp_path / "copy")
        assert not (done := sh("mount", "-o", "loop", tmp_path / "copy", after)).returncode, done.stderr
        try:
            out = after / "out"
            found = {name: (out / name).read_bytes() for name in MODEL} if out.exists() else None
            return found, sorted(path.name for path in after.iterdir())
        finally:
            sh("umount", after)

    def content(letter):
        return json.dumps({"model_type": letter * 300_000}).encode()

    def write(letter, at=lambda: None):
        with staged(live / "out", True) as work:
            for name in MODEL:
                (work / name).write_bytes(content(letter))
            at()

    try:
        old, new = (dict.fromkeys(MODEL, content(letter)) for letter in "ab")
        (live / "unflushed").write_bytes(b"x" * 1000)
        assert "unflushed" not in cut()[1]  # or this test says nothing
        write("a")
        assert cut()[0] == old
        seen = []
        write("b", lambda: seen.append(cut()[0]))
        assert seen == [old] and cut()[0] == new
        with pytest.MonkeyPatch.context() as patch:  # what flushing is for: without it, a new output is lost or empty
            patch.setattr(durable, "flush", lambda _: None)
            patch.setattr(durable, "_sync", lambda *_: None)
            write("c")
            assert dict.fromkeys(MODEL, content("c")) != cut()[0]
    finally:
        sh("umount", live)
