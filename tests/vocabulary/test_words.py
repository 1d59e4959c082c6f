"""Words that new tokens are learnt from, and how many of them are kept in mind."""

from __future__ import annotations

from tokensurgeon.vocabulary.edit.words import counted_words


def test_of_too_many_different_words_the_frequent_ones_are_counted(caplog):
    rare = [("r", str(i)) for i in range(5000)]
    words = [word for one in rare for word in (("of", "ten"), one, ("al", "so"))]
    counts = counted_words(words, most_pieces=400)
    assert counts[("of", "ten")] == counts[("al", "so")] == 5000
    assert sum(map(len, counts)) <= 400 + 2 and len(counted_words(words)) == 5002
    assert "rare ones may occur" in caplog.text


def test_a_few_words_are_all_counted(caplog):
    assert counted_words([("a", "b"), ("c",), ("a", "b")]) == {("a", "b"): 2, ("c",): 1} and not caplog.records
