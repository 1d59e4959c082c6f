"""Speculative decoding: counts against a reference, and drafts of known quality."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny import TEXT
from typer.testing import CliRunner

from tokensurgeon import InputError
from tokensurgeon.cli.app import app
from tokensurgeon.evaluation.drafts import DraftOptions, bench_drafts, generate_with, take_prompts
from tokensurgeon.evaluation.loading import load_model

SHORT = DraftOptions(prompts=3, prompt_bytes=60, new_tokens=12, draft_tokens=3)


@pytest.fixture
def text(tmp_path):
    (tmp_path / "t.txt").write_text(TEXT[:2000])
    return tmp_path / "t.txt"


def test_a_model_accepts_all_of_its_own_drafts(zoo, text):
    found = bench_drafts(str(zoo["gpt"]), str(zoo["gpt"]), [text], options=SHORT)
    for mode in ("greedy", "sampling"):
        assert found["draft"][mode]["acceptance"] == 1.0
        assert found["draft"][mode]["accepted_length"] == 3.0  # 12 tokens in 3 passes: 3 drafted and 1 of its own
        assert found["no draft"][mode]["passes_per_token"] == 1.0 and found["no draft"][mode]["acceptance"] is None
    assert found["draft"]["greedy"]["same_texts"] == 3


def test_counts_of_a_poor_draft(zoo, tmp_path, text):
    """Greedy: round by round, computed from both models' own choices."""
    other = shutil.copytree(zoo["gpt"], tmp_path / "other")
    draft, target = load_model(other), load_model(zoo["gpt"])
    with torch.no_grad():
        draft.model.model.layers[1].mlp.down_proj.weight.mul_(3.0)
    prompts = take_prompts([[text.read_text()]], SHORT)
    found = generate_with(target, {"no draft": None, "poor": draft}, prompts, SHORT)["poor"]["greedy"]

    def choose(model, ids):
        with torch.inference_mode():
            return int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())

    passes = drafted = tokens = nats = 0
    for prompt in prompts:
        ids, made = [target.prefix, *target.encode(prompt)], 0
        while made < SHORT.new_tokens:
            proposed = list(ids)
            for _ in range(min(SHORT.draft_tokens, SHORT.new_tokens - made - 1)):
                proposed.append(choose(draft.model, proposed))
            passes, drafted = passes + 1, drafted + len(proposed) - len(ids)
            for token in [*proposed[len(ids) :], None]:
                ids.append(choose(target.model, ids))
                made += 1
                if ids[-1] != token:
                    break
        tokens += made
        with torch.inference_mode():
            scores = target.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        nats -= sum(float(scores[at - 1, ids[at]]) for at in range(len(ids) - made, len(ids)))
    assert 0 < tokens - passes < drafted
    assert found["acceptance"] == pytest.approx((tokens - passes) / drafted)
    assert found["accepted_length"] == pytest.approx((tokens - passes) / passes)
    assert found["nats_per_token"] == pytest.approx(nats / tokens, rel=1e-4)
    assert found["same_texts"] == 3


@pytest.mark.slow
def test_the_untouched_draft_reencodes_text(zoo, text):
    found = bench_drafts(str(zoo["spm"]), str(zoo["spm"]), [text], untouched=str(zoo["gpt"]), options=SHORT)
    assert list(found) == ["no draft", "draft", "untouched"]
    assert found["untouched"]["greedy"]["same_texts"] == 3 and found["untouched"]["greedy"]["acceptance"] < 0.5


def test_what_is_done_once_is_not_timed(zoo, text, monkeypatch):
    calls = []

    def note(*arguments):
        _, _, start, _, options, _ = arguments
        calls.append((options.new_tokens, start.shape[1]))
        return start[0]

    monkeypatch.setattr("tokensurgeon.evaluation.drafts._generate", note)
    bench_drafts(str(zoo["gpt"]), str(zoo["gpt"]), [text], options=SHORT)
    assert [new for new, _ in calls] == [4] * 2 + [12] * 2 * 2 * 3 and [read for _, read in calls[:2]] == [4, 4]


def test_an_untouched_draft_of_the_same_size_is_refused(zoo, tmp_path, text):
    """Transformers would take it for one with the same tokenizer."""
    other = shutil.copytree(zoo["gpt"], tmp_path / "other")
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text().replace("<repo>", "<other>"))
    with pytest.raises(InputError, match="has another tokenizer and the target's vocab_size"):
        bench_drafts(str(zoo["gpt"]), str(zoo["gpt"]), [text], untouched=str(other), options=SHORT)


def test_what_cannot_draft_is_refused(zoo, tmp_path, text):
    with pytest.raises(InputError, match="vocab_size is 700, the target's 1"):
        bench_drafts(str(zoo["gpt"]), str(zoo["spm"]), [text])
    other = shutil.copytree(zoo["gpt"], tmp_path / "other")
    spec = (other / "tokenizer.json").read_text().replace("<repo>", "<other>")
    (other / "tokenizer.json").write_text(spec)
    with pytest.raises(InputError, match="2 tokens have other ids, such as '<other>'"):
        bench_drafts(str(other), str(zoo["gpt"]), [text])
    with pytest.raises(InputError, match="pieces of 512 bytes for 90 prompts"):
        take_prompts([[text.read_text()]], DraftOptions(prompts=90))


def test_the_command(zoo, text):
    arguments = ["draft-bench", str(zoo["gpt"]), str(zoo["gpt"]), "--text", str(text), "--prompts", "2"]
    arguments += ["--prompt-bytes", "40", "--new-tokens", "6", "--draft-tokens", "2", "--seed", "3"]
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert found["draft"]["sampling"]["accepted_length"] == 2.0 and found["draft"]["sampling"]["texts"] == 2
    shown = CliRunner().invoke(app, [*arguments, "--untouched", str(zoo["untied"]), "--device", "cpu"])
    assert shown.exit_code == 0 and "100.0%" in shown.stdout and "untouched" in shown.stdout
