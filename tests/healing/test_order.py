"""The order of text, the rates, and the mean of the last states."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from tokensurgeon.errors import InputError
from tokensurgeon.healing import HealOptions
from tokensurgeon.healing.average import LastStates
from tokensurgeon.healing.batches import nth_piece
from tokensurgeon.healing.order import by_weight, shares
from tokensurgeon.healing.schedule import schedule_of
from tokensurgeon.healing.texts import divide


def test_texts_have_their_shares_in_every_hundred_pieces():
    texts = np.array([0] * 30 + [1] * 500)
    order = by_weight(texts, (0.8, 0.2), 3)
    taken = [order(position) for position in range(1000)]
    assert all(sum(texts[i] == 0 for i in taken[n : n + 100]) == 80 for n in range(0, 1000, 100))
    first = [i for i in taken if texts[i] == 0]
    assert all(sorted(first[n : n + 30]) == list(range(30)) for n in range(0, 780, 30))  # all before any again
    second = Counter(i for i in taken if texts[i] == 1)
    assert len(second) == 200 and [order(position) for position in (7, 705, 7)] == [taken[7], taken[705], taken[7]]
    assert taken != [by_weight(texts, (0.8, 0.2), 4)(position) for position in range(1000)]


def test_shares_add_up_and_texts_without_weights_are_alike():
    assert shares([2, 2, 3]) == [29, 28, 43] and sum(shares([1] * 7)) == 100
    order = by_weight(np.zeros(9, dtype=np.int64), (), 5)
    assert [order(i) for i in range(30)] == [nth_piece(9, i, 5) for i in range(30)]


def test_a_text_with_a_weight_must_have_pieces_to_hold_out(tmp_path):
    (tmp_path / "long.txt").write_text("The value of the object is 42.\n" * 100)
    (tmp_path / "short.txt").write_text("The value.")
    with pytest.raises(InputError, match=r"short.txt has 1 pieces of 256 bytes; a text with a weight needs 4"):
        divide([tmp_path / "long.txt", tmp_path / "short.txt"], 256, (0.5, 0.5))


@pytest.mark.parametrize("steps", [200, None])
def test_rates_that_stay_go_down_at_the_end_alone(steps):
    at = schedule_of(HealOptions(steps=steps, schedule="wsd", decay=0.2))
    assert at(0) == pytest.approx(0.01) and at(0.05) == at(0.4) == at(0.799) == 1
    assert 0.01 < at(0.99) < at(0.9) < at(0.81) < 1 and at(1) == pytest.approx(0.01)
    down = schedule_of(HealOptions(steps=steps))
    assert down(0.05) == 1 and down(0.525) == pytest.approx(0.5) and down(1) == down(0) == 0.01


def test_a_schedule_of_few_steps_is_one_too():
    for steps in (1, 2, 3):
        at = schedule_of(HealOptions(steps=steps, schedule="wsd"))
        assert all(0 < at(step / steps) <= 1 for step in range(steps))


def test_the_last_states_are_evenly_apart_and_the_last_is_the_end():
    last = LastStates(3)
    for step in range(101):
        last.see(step / 100, {"w": torch.tensor([float(step)])})
    assert last.taken == 3 and float(last.mean()["w"]) == 98  # of 96, 98 and 100


def test_few_updates_count_for_several_states():
    last = LastStates(5)
    for step in range(11):
        last.see(step / 10, {"w": torch.tensor([float(step)])})
    assert last.taken == 5 and float(last.mean()["w"]) == 10


def test_states_before_a_training_that_goes_on_for_longer_are_not_the_last():
    short, long = LastStates(2), LastStates(2)
    short.see(0.99, {"w": torch.tensor([5.0])})
    short.see(1.0, {"w": torch.tensor([5.0])})
    long.load(short.state())
    long.see(0.5, {"w": torch.tensor([6.0])})
    long.see(0.98, {"w": torch.tensor([7.0])})
    long.see(1.0, {"w": torch.tensor([9.0])})
    assert long.taken == 2 and float(long.mean()["w"]) == 8
