"""Text is cut by files that are open as by transformers' tokenizer, and begins alike."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tokensurgeon import InputError
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.evaluation import loading
from tokensurgeon.evaluation.loading import in_fast_numbers, load_model

TEXT = "The value of x is 42.\n\n\tdef f(x):\n    return naïve 日本 🙂"


@pytest.mark.parametrize("name", ["gpt", "spm"])
def test_open_files_stand_for_the_tokenizer(zoo, name):
    theirs, ours = load_model(zoo[name]), load_model(zoo[name], files=TokenizerFiles.open(zoo[name]))
    assert ours.tokenizer is None and ours.prefix == theirs.prefix is not None
    assert ours.encode(TEXT) == theirs.encode(TEXT)


def test_truncation_in_the_file_is_not_for_text_that_is_read(zoo, tmp_path):
    whole = load_model(zoo["gpt"], files=TokenizerFiles.open(zoo["gpt"])).encode(TEXT)
    cut = shutil.copytree(zoo["gpt"], tmp_path / "cut")
    content = json.loads((cut / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (cut / "tokenizer.json").write_text(json.dumps(content))
    files = TokenizerFiles.open(cut)
    assert len(files.tokenizer.encode(TEXT).ids) == 3 and load_model(cut, files=files).encode(TEXT) == whole


@pytest.mark.parametrize("opened", [True, False])
def test_a_token_without_a_row_is_named(zoo, opened):
    loaded = load_model(zoo["gpt"], files=TokenizerFiles.open(zoo["gpt"]) if opened else None)
    loaded.model.resize_token_embeddings(5)
    with pytest.raises(InputError, match=r"text has token '\w+', id \d+, and the embedding has 5 rows"):
        loaded.encode("value")


@pytest.mark.parametrize(
    ("stored", "fast", "memory", "now"),
    [
        (torch.bfloat16, False, 1 << 40, torch.float32),
        (torch.bfloat16, False, 1000, torch.bfloat16),  # it would take more than a quarter
        (torch.bfloat16, True, 1 << 40, torch.bfloat16),
        (torch.float16, True, 1000, torch.float32),
        (torch.float32, True, 1 << 40, torch.float32),
        (torch.float64, False, 1 << 40, torch.float64),
    ],
)
def test_a_processor_without_bfloat16_runs_halves_in_float32(
    zoo, tmp_path, monkeypatch, caplog, stored, fast, memory, now
):
    monkeypatch.setattr(loading, "computes_in_bfloat16", lambda _: fast)
    monkeypatch.setattr(loading, "host_memory", lambda: memory)
    model = load_model(zoo["gpt"]).model.to(stored)
    model.save_pretrained(tmp_path)
    for file in zoo["gpt"].glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    loaded = load_model(tmp_path).model
    assert {parameter.dtype for parameter in loaded.parameters()} == {now}
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight.to(now))
    assert ("no instructions for" in caplog.text) == (now is torch.bfloat16 and not fast)


def test_what_is_quantised_is_left_as_it_is(zoo, monkeypatch):
    monkeypatch.setattr(loading, "computes_in_bfloat16", lambda _: False)
    host, model = torch.device("cpu"), load_model(zoo["gpt"]).model.bfloat16()
    model.is_quantized = True
    assert in_fast_numbers(model, host).dtype == torch.bfloat16
    model.is_quantized = False
    assert in_fast_numbers(model, torch.device("meta")).dtype == torch.bfloat16  # no processor
    model.model.norm.weight.data = model.model.norm.weight.data.to(torch.float8_e4m3fn)
    assert in_fast_numbers(model, host).model.embed_tokens.weight.dtype == torch.bfloat16
