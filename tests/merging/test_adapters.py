"""Adapters that PEFT made: averaged, packed and taken out again, and loaded by PEFT."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tokensurgeon import InputError
from tokensurgeon.cli.app import app
from tokensurgeon.merging.adapters.average import average_adapters
from tokensurgeon.merging.adapters.pack import pack_adapters, unpack_adapter

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # PEFT's, on tied models
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def made(zoo, tmp_path_factory):
    """Three of one run, as far as their tensors go, and one of another."""
    root = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear")
    get_peft_model(AutoModelForCausalLM.from_pretrained(zoo["gpt"]), config).save_pretrained(root / "start")
    start = load_file(root / "start" / WEIGHTS)
    for seed, (name, spread) in enumerate({"a": 0.01, "b": 0.01, "c": 0.01, "other": 3.0}.items()):
        shutil.copytree(root / "start", root / name)
        generator = torch.Generator().manual_seed(seed)
        noise = {n: spread * torch.randn(t.shape, generator=generator) for n, t in start.items()}
        base = {n: torch.randn(t.shape, generator=torch.Generator().manual_seed(9)) * 0.1 for n, t in start.items()}
        save_file({n: base[n] + noise[n] for n in start}, root / name / WEIGHTS, metadata={"format": "pt"})
    shutil.rmtree(root / "start")
    return root


def paths(made, names):
    return [str(made / name) for name in names]


def tensors(made, names):
    return [load_file(made / name / WEIGHTS) for name in names]


def said(result):
    return " ".join((result.stdout + result.stderr).split())


def run(*arguments):
    return CliRunner().invoke(app, ["adapters", *map(str, arguments)])


def test_the_average_is_that_of_the_factors(made, zoo, tmp_path):
    report = average_adapters(paths(made, "ab"), tmp_path / "out", metrics=[2.0, 1.0])
    assert report.weights == pytest.approx({"a": 1 / 3, "b": 2 / 3}) and report.modules == 14
    one, two = tensors(made, "ab")
    for name, found in load_file(tmp_path / "out" / WEIGHTS).items():
        torch.testing.assert_close(found, one[name] / 3 + 2 * two[name] / 3)
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config == json.loads((made / "a/adapter_config.json").read_text())
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(zoo["gpt"]), tmp_path / "out")
    assert model(input_ids=torch.arange(8)[None]).logits.isfinite().all()
    assert "averaged" in (tmp_path / "out/README.md").read_text()


def test_how_far_the_average_is_from_that_of_the_products(made, tmp_path, caplog):
    """By the products themselves, which the report never makes."""
    for names, near in (("ab", True), (("a", "other"), False)):
        report = average_adapters(paths(made, names), tmp_path / "out", metrics=[1.0, 3.0], overwrite=True)
        both, apart, whole = tensors(made, names), 0.0, 0.0
        for name in (n for n in both[0] if n.endswith("lora_A.weight")):
            partner = name.replace("lora_A", "lora_B")
            a, b = ([0.75 * x[n].double(), 0.25 * y[n].double()] for x, y in [both] for n in (name, partner))
            mean = sum(b[i] @ a[i] / w for i, w in enumerate((0.75, 0.25)))
            apart += float((sum(b) @ sum(a) - mean).square().sum())
            whole += float(mean.square().sum())
        assert report.gap == pytest.approx((apart / whole) ** 0.5, rel=1e-9)
        assert (report.gap < 0.1) == near and ("do not come from one run" in caplog.text) != near
    same = average_adapters([*paths(made, "a"), str(shutil.copytree(made / "a", tmp_path / "copy"))], tmp_path / "same")
    assert same.gap == pytest.approx(0, abs=1e-7)


def test_every_adapter_comes_back_from_a_pack(made, tmp_path):
    report = pack_adapters(paths(made, ["a", "b", "other"]), tmp_path / "pack.safetensors")
    assert report.keep == 3 and max(report.errors.values()) < 3e-7
    for name in report.errors:
        assert unpack_adapter(tmp_path / "pack.safetensors", name, tmp_path / name) == tmp_path / name
        found, wanted = load_file(tmp_path / name / WEIGHTS), load_file(made / name / WEIGHTS)
        assert found.keys() == wanted.keys()
        for key, tensor in wanted.items():
            assert found[key].dtype == tensor.dtype
            torch.testing.assert_close(found[key], tensor, atol=2e-6, rtol=0)
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert config == json.loads((made / name / "adapter_config.json").read_text())


def test_half_precision_comes_back_bit_for_bit(made, tmp_path):
    for name in "ab":
        shutil.copytree(made / name, tmp_path / name)
        save_file({n: t.bfloat16() for n, t in tensors(made, name)[0].items()}, tmp_path / name / WEIGHTS)
    report = pack_adapters(paths(tmp_path, "ab"), tmp_path / "pack.safetensors")
    unpack_adapter(tmp_path / "pack.safetensors", "b", tmp_path / "back")
    found, wanted = load_file(tmp_path / "back" / WEIGHTS), load_file(tmp_path / "b" / WEIGHTS)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items()) and report.errors["b"] == 0


def test_fewer_tensors_lose_what_the_report_says(made, tmp_path):
    report = pack_adapters(paths(made, "abc"), tmp_path / "pack.safetensors", keep=1)
    assert report.bytes < report.bytes_before  # tiny ones: a third of it is the settings
    for name, error in report.errors.items():
        unpack_adapter(tmp_path / "pack.safetensors", name, tmp_path / name)
        found, wanted = load_file(tmp_path / name / WEIGHTS), load_file(made / name / WEIGHTS)
        lost = sum(float((found[n] - t).double().square().sum()) for n, t in wanted.items())
        whole = sum(float(t.double().square().sum()) for t in wanted.values())
        assert 0.01 < error == pytest.approx((lost / whole) ** 0.5, rel=1e-5)


def test_names_that_are_not_unique_are_those_that_were_given(made, tmp_path):
    twins = [str(shutil.copytree(made / name, tmp_path / name / "adapter")) for name in "ab"]
    assert list(pack_adapters(twins, tmp_path / "pack.safetensors").errors) == twins


def test_the_commands(made, tmp_path):
    out, packed = tmp_path / "out", tmp_path / "pack.safetensors"
    done = run("average", *paths(made, "ab"), "--metric", 90, "--metric", 10, "--higher-is-better", "--out", out)
    assert done.exit_code == 0 and "14 modules, weights 0.900, 0.100" in said(done)
    one, two = tensors(made, "ab")
    for name, found in load_file(out / WEIGHTS).items():
        torch.testing.assert_close(found, 0.9 * one[name] + 0.1 * two[name])
    done = run("average", *paths(made, "ab"), "--out", out)
    assert done.exit_code == 2 and "--overwrite" in done.stderr
    done = run("average", *paths(made, "ab"), "--metric", 2, "--metric", 1, "--penalty", 2, "--out", out,
               "--overwrite", "--json")  # fmt: skip
    assert json.loads(done.stdout)["weights"] == pytest.approx({"a": 0.2, "b": 0.8})
    done = run("pack", *paths(made, "abc"), "--keep", 2, "--out", packed)
    assert done.exit_code == 0 and "3 adapters in" in said(done) and "differs by a" in said(done)
    done = run("pack", *paths(made, "abc"), "--out", packed, "--overwrite", "--json")
    content = json.loads(done.stdout)
    assert content["keep"] == 3 and list(content["errors"]) == ["a", "b", "c"] and content["bytes"] > 0
    done = run("unpack", packed, "c", "--out", tmp_path / "c")
    assert done.exit_code == 0 and "the adapter c" in said(done)
    done = run("unpack", packed, "c", "--out", tmp_path / "c", "--overwrite", "--json")
    assert json.loads(done.stdout)["adapter"] == "c"


def test_bad_input(made, zoo, tmp_path):
    wider, alpha, broken, nan = (shutil.copytree(made / "a", tmp_path / n) for n in ("wider", "alpha", "broken", "nan"))
    whole = tensors(made, "a")[0]
    first = next(iter(whole))
    save_file({n: torch.cat([t, t]) if n == first else t for n, t in whole.items()}, wider / WEIGHTS)
    save_file({n: t / 0 if n == first else t for n, t in whole.items()}, nan / WEIGHTS)
    config = json.loads((alpha / "adapter_config.json").read_text()) | {"lora_alpha": 99}
    (alpha / "adapter_config.json").write_text(json.dumps(config))
    (broken / WEIGHTS).write_bytes((broken / WEIGHTS).read_bytes()[:-4])
    a, b = paths(made, "ab")
    out = tmp_path / "out"
    refused = {
        "two adapters or more": lambda: average_adapters([a], out),
        "is given twice": lambda: average_adapters([a, a], out),
        "it is no adapter": lambda: average_adapters([a, str(zoo["gpt"])], out),
        r"do not go together: .* is \[4, 64\] in one and \[8, 64\]": lambda: average_adapters([a, str(wider)], out),
        "lora_alpha 8 and alpha 99": lambda: average_adapters([a, str(alpha)], out),
        "truncated": lambda: average_adapters([a, str(broken)], out),
        "not finite": lambda: average_adapters([a, str(nan)], out),
        "2 adapters and 1 metrics": lambda: average_adapters([a, b], out, metrics=[1.0]),
        "metrics are": lambda: average_adapters([a, b], out, metrics=[1.0, -1.0]),
        r"must be a file that ends in \.safetensors": lambda: pack_adapters([a, b], out),
        "keep is 3": lambda: pack_adapters([a, b], tmp_path / "p.safetensors", keep=3),
        "is no file; give one": lambda: unpack_adapter(tmp_path / "p.safetensors", "a", out),
        "is no file that": lambda: unpack_adapter(made / "a" / WEIGHTS, "a", out),
    }
    for message, call in refused.items():
        with pytest.raises(InputError, match=message):
            call()
    pack_adapters([a, str(alpha)], tmp_path / "q.safetensors")  # each keeps its own settings
    with pytest.raises(InputError, match="has no adapter z; it has a, alpha"):
        unpack_adapter(tmp_path / "q.safetensors", "z", out)
    assert not out.exists() and not (tmp_path / "p.safetensors").exists()
    assert run("average", a, str(alpha), "--out", out).exit_code == 2
