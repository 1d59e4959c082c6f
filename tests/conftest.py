"""Fixtures: real tiny tokenizers and models, which `tiny` builds in process.

Where tests are spread over workers, the process that spreads them imports this file too and runs none of them. So
what is slow to import is imported in the fixtures.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def amounts_of_text() -> list[tuple[ModuleType, str]]:
    """Constants that say how many bytes a base is run on, and the verifier reads."""
    from tokensurgeon.evaluation import states
    from tokensurgeon.verification import running

    return [(states, "_READ"), (running, "_ENCODED"), (running, "_SCORED")]


@pytest.fixture(scope="session", autouse=True)
def little_read() -> Iterator[None]:
    """A quarter of the text has many more states than tiny models have dimensions, and all of their tokens."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in amounts_of_text():
            patch.setattr(module, name, getattr(module, name) // 4)
        yield


@pytest.fixture
def all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much text as other processes read, for tests that compare with what these write."""
    for module, name in amounts_of_text():
        monkeypatch.setattr(module, name, 4 * getattr(module, name))


@pytest.fixture(scope="session")
def gpt() -> PreTrainedTokenizerFast:
    """Byte-level BPE with ChatML markers."""
    from tiny import CHATML, byte_level, fast

    tokenizer = byte_level(700, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo>"))
    wrapped = fast(tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>")
    wrapped.chat_template = CHATML
    return wrapped


@pytest.fixture(scope="session")
def spm() -> PreTrainedTokenizerFast:
    """SentencePiece-style BPE with byte fallback, turn markers, and a crowd of unused tokens."""
    from tiny import fast, sentencepiece_bpe

    specials = ("<unk>", "<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>")
    tokenizer = sentencepiece_bpe(1000, specials=(*specials, *(f"<unused{i}>" for i in range(40))))
    return fast(tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory, gpt: Any, spm: Any) -> dict[str, Path]:
    """Model directories: ``gpt`` and ``spm`` tied, ``untied``, ``biased`` (untied, biased head), ``sharded``."""
    import torch
    from tiny import llama, save, steady
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PhiConfig, PhiForCausalLM

    root = tmp_path_factory.mktemp("zoo")
    n_gpt, n_spm = len(gpt), len(spm)
    made = {
        "gpt": save(root / "gpt", llama(n_gpt, seed=1), gpt),
        "spm": save(root / "spm", llama(n_spm + 22, dim=48, seed=2), spm),
        "untied": save(root / "untied", llama(n_gpt, tied=False, seed=3), gpt),
        "untied-spm": save(root / "untied-spm", llama(n_spm, dim=48, tied=False, seed=4), spm),
        "sharded": save(root / "sharded", llama(n_gpt, seed=5).to(torch.bfloat16), gpt, max_shard_size="60KB"),
    }
    phi = PhiConfig(
        vocab_size=n_gpt, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=2048,
    )  # fmt: skip
    made["biased"] = save(root / "biased", steady(PhiForCausalLM(phi), 6), gpt)
    neox = GPTNeoXConfig(
        vocab_size=n_gpt, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=2048,
    )  # fmt: skip
    made["neox"] = save(root / "neox", steady(GPTNeoXForCausalLM(neox), 7), gpt)
    return made


@pytest.fixture
def copy_of(zoo: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A private copy of a zoo model, to be damaged."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(zoo[name], tmp_path / f"copy-of-{name}"))

    return make
