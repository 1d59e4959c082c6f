"""From a name to a directory."""

from __future__ import annotations

import json

import processes
import pytest

from tokensurgeon import InputError
from tokensurgeon.checkpoint import resolve


def test_directory(tmp_path):
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/dir", "a/b/c", "model.gguf"])
def test_missing_local_paths_do_not_go_to_the_hub(name):
    with pytest.raises(InputError, match="does not exist"):
        resolve(name)


def test_a_file_that_is_no_model(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("")
    with pytest.raises(InputError, match="is a file"):
        resolve(str(path))


def run_offline(code, home):
    """huggingface_hub reads its environment once, so each case has a process of its own."""
    import os

    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return processes.run(code, env=environment)


def fake_cache(home, commit, branch):
    repository = home / "hub" / "models--org--tiny"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"commit": commit}))
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / branch).write_text(commit)


def test_hub_ids_use_the_cache_offline_and_the_revision(tmp_path):
    fake_cache(tmp_path, "a" * 40, "main")
    fake_cache(tmp_path, "b" * 40, "other")
    code = "from tokensurgeon.checkpoint import resolve; print((resolve({!r}) / 'config.json').read_text())"
    assert '"' + "a" * 40 in run_offline(code.format("org/tiny"), tmp_path).stdout
    assert '"' + "b" * 40 in run_offline(code.format("org/tiny@other"), tmp_path).stdout
    assert '"' + "b" * 40 in run_offline(code.format("org/tiny@" + "b" * 40), tmp_path).stdout
    missing = run_offline(code.format("org/tiny@refs/pr/3"), tmp_path).stderr
    assert "org/tiny@refs/pr/3 is neither a local path nor" in missing


def test_a_hub_id_that_is_not_there_says_what_to_check(tmp_path):
    result = run_offline("from tokensurgeon.checkpoint import resolve; resolve('org/none')", tmp_path)
    assert "InputError: org/none is neither a local path nor" in result.stderr
    assert "HF_TOKEN" in result.stderr
