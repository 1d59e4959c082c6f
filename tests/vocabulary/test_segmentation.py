"""The donor's tokens in the base's pieces."""

from __future__ import annotations

import pytest

from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.vocabulary.segmentation import base_pieces


@pytest.mark.parametrize(("base", "donor"), [("gpt", "spm"), ("spm", "gpt")])
def test_pieces_spell_the_token(zoo, base, donor):
    one, other = (TokenizerFiles.open(zoo[name]).vocabulary() for name in (base, donor))
    ids = [i for i, key in enumerate(other.keys) if key is not None and key.is_text]
    found = base_pieces(one, other, ids, len(one))
    assert len(found) == len(ids)
    for token_id, pieces in zip(ids, found, strict=True):
        spelled = b"".join(one.keys[piece].data for piece in pieces)
        assert spelled == other.keys[token_id].data, other.describe(token_id)


def test_shared_tokens_are_one_piece_and_rows_that_are_not_there_are_left_out(zoo):
    gpt, spm = (TokenizerFiles.open(zoo[name]).vocabulary() for name in ("gpt", "spm"))
    the = spm.text_ids()[b" the"]
    assert base_pieces(gpt, spm, [the], len(gpt)) == [[gpt.text_ids()[b" the"]]]
    assert base_pieces(gpt, spm, [the], gpt.text_ids()[b" the"]) == [[]]
