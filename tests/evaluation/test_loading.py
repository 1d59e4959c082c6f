"""Text is cut by files that are open as by transformers' tokenizer, and begins alike."""

from __future__ import annotations

import pytest

from tokensurgeon import InputError
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.evaluation.loading import load_model

TEXT = "The value of x is 42.\n\n\tdef f(x):\n    return naïve 日本 🙂"


@pytest.mark.parametrize("name", ["gpt", "spm"])
def test_open_files_stand_for_the_tokenizer(zoo, name):
    theirs, ours = load_model(zoo[name]), load_model(zoo[name], files=TokenizerFiles.open(zoo[name]))
    assert ours.tokenizer is None and ours.prefix == theirs.prefix is not None
    assert ours.encode(TEXT) == theirs.encode(TEXT)


def test_truncation_in_the_file_is_not_for_text_that_is_read(zoo):
    files = TokenizerFiles.open(zoo["gpt"])
    whole = load_model(zoo["gpt"], files=files).encode(TEXT)
    files.tokenizer.enable_truncation(3)
    assert load_model(zoo["gpt"], files=files).encode(TEXT) == whole


@pytest.mark.parametrize("opened", [True, False])
def test_a_token_without_a_row_is_named(zoo, opened):
    loaded = load_model(zoo["gpt"], files=TokenizerFiles.open(zoo["gpt"]) if opened else None)
    loaded.model.resize_token_embeddings(5)
    with pytest.raises(InputError, match=r"text has token '\w+', id \d+, and the embedding has 5 rows"):
        loaded.encode("value")
