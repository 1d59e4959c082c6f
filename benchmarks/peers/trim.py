"""Other packages' way to fewer tokens, each in an environment of its own.

Called as ``python benchmarks/peers/trim.py PEER MODEL TEXT OUT``.

Runs without tokensurgeon. What a peer cannot do ends in its own error.
"""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer


def tokenizer_adapter(model: str, text: str, out: str) -> None:
    """A tokenizer of the same kind, trained on the text to at most 32,768 tokens; rows are means of old ones."""
    from tokenizer_adapter import TokenizerAdapter

    old = AutoTokenizer.from_pretrained(model)
    lines = Path(text).read_text("utf-8").splitlines(keepends=True)
    new = old.train_new_from_iterator(lines, 32_768)
    adapted = TokenizerAdapter().adapt_from_pretrained(AutoModelForCausalLM.from_pretrained(model), new, old)
    adapted.save_pretrained(out)
    new.save_pretrained(out)


def vocabtrimmer(model: str, text: str, out: str) -> None:
    """As its README says, with the text as a dataset of one column."""
    import vocabtrimmer as package

    trimmer = package.VocabTrimmer(model)
    trimmer.trim_vocab(path_to_save=out, language="en", dataset="text", dataset_name=text, dataset_split="train")


def hf_trim(model: str, text: str, out: str) -> None:
    """As its README says. Its model trimmers are for BART, mBART, T5 and mT5 only; the tokenizer comes first."""
    from hftrim.TokenizerTrimmer import TokenizerTrimmer

    trimmer = TokenizerTrimmer(AutoTokenizer.from_pretrained(model))
    trimmer.make_vocab([Path(text).read_text("utf-8")])
    trimmer.make_tokenizer().save_pretrained(out)


if __name__ == "__main__":
    peers = {"tokenizer-adapter": tokenizer_adapter, "vocabtrimmer": vocabtrimmer, "hf-trim": hf_trim}
    peers[sys.argv[1]](*sys.argv[2:])
