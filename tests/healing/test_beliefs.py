"""What the base believes, in the student's ids: against sums over all of its tokens."""

from __future__ import annotations

import math

import pytest
import torch

from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.healing.batches import Piece
from tokensurgeon.healing.branches import draw_branches, lay_out, reads_branches
from tokensurgeon.healing.joins import Joins
from tokensurgeon.healing.lesson import Lesson
from tokensurgeon.healing.meeting import Classes, numbered
from tokensurgeon.healing.objective import Asked, TermWeights, losses
from tokensurgeon.healing.splits import Splits
from tokensurgeon.healing.targets import Beliefs, Targets, behind_branches, inside_of_tokens, next_ids
from tokensurgeon.healing.trained_rows import AskedHead

# The base's tokens as the student cuts them. The student's ids: 0 begins a text, 1 to 6 are letters, 7 is "12" joined.
CUTS = [[0], [1], [2], [3], [1, 2, 3], [1, 2], [2, 4], [4], [2, 4, 5, 6], [1, 4], [5], [6], [7], []]
# Text 1 2 4 1 2 3 3, which the base reads as [1], [2, 4], [1, 2, 3], [3].
STUDENT, TEACHER, MEET = [0, 1, 2, 4, 1, 2, 3, 3], [0, 1, 6, 4, 3], [(0, 0), (1, 1), (3, 2), (6, 3), (7, 4)]
ROWS = len(CUTS) + 2  # two of padding
BY_FIRST = Classes.of(torch.tensor([cut[0] if cut else -1 for cut in CUTS]), torch.arange(8), (ROWS, 8))


@pytest.fixture
def logits():
    return 2 * torch.randn(5, ROWS, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def beliefs(logits):
    return Beliefs.of_logits(MEET, TEACHER, logits)


def every_way(logs, place, known):
    """Mass of each next id, of tokens that end, by trying all tokens behind all meetings that are known."""
    mass, ended, total = torch.zeros(8), 0.0, 0.0
    for number, (here, there) in enumerate(MEET):
        read = STUDENT[here + 1 : place + 1]
        if here > place:
            break
        for token, cut in enumerate(CUTS) if number >= known else ():
            probability = math.exp(total + logs[there, token])
            if cut[: len(read)] == read and len(cut) > len(read):
                mass[cut[len(read)]] += probability
            elif cut == read and read and place not in dict(MEET):
                ended += probability
        if number + 1 < len(MEET):
            total += float(logs[there, TEACHER[there + 1]])
    return mass, ended


def dense(targets):
    """(positions, ids) of what is wanted, and what is left."""
    got = torch.zeros(len(targets.place), 8)
    got[targets.row[targets.entry], targets.token] = targets.mass[targets.entry]
    return got, 1 - got.sum(dim=-1)


@pytest.mark.parametrize(("begin", "places", "inside"), [(0, [0, 1, 3, 6, 7], [2, 4, 5]), (1, [3, 6, 7], [2, 4, 5])])
def test_what_is_wanted_is_the_sum_over_all_tokens(logits, begin, places, inside):
    """Of all meetings, or of a part: there the first one is left out, since what led to it is not known."""
    logs = logits.log_softmax(dim=-1)
    beliefs = Beliefs.of_logits(MEET[begin:], TEACHER, logits[begin:])
    at, between = next_ids(beliefs, STUDENT, Splits(CUTS), BY_FIRST), inside_of_tokens(beliefs, STUDENT, Splits(CUTS))
    assert at.place.tolist() == places and between.place.tolist() == inside
    assert at.at.tolist() == at.place[at.row].tolist()  # classes of one id here
    for row, place in enumerate(places):
        mass, _ = every_way(logs, place, begin)
        torch.testing.assert_close(dense(at)[0][row], mass / mass.sum(), atol=2e-4, rtol=1e-3)
    for row, place in enumerate(inside):
        mass, ended = every_way(logs, place, begin)
        got, rest = (part[row] for part in dense(between))
        torch.testing.assert_close(got, mass / (mass.sum() + ended), atol=2e-4, rtol=1e-3)
        assert float(rest) == pytest.approx(float(ended / (mass.sum() + ended)), abs=3e-4)


def test_along_a_token_what_is_wanted_multiplies_to_what_the_base_gives_it():
    """And so a student that says what is wanted loses nothing."""
    student, meet = [0, 1, 2, 3], [(0, 0), (3, 1)]
    logits = torch.randn(2, ROWS, generator=torch.Generator().manual_seed(2))
    beliefs, splits = Beliefs.of_logits(meet, [0, 4], logits), Splits(CUTS)
    steps = [dense(next_ids(beliefs, student, splits, BY_FIRST))[0][0, 1]]
    steps += [dense(inside_of_tokens(beliefs, student, splits))[0][i, wanted] for i, wanted in enumerate((2, 3))]
    known = logits[0].softmax(dim=-1)
    assert math.prod(map(float, steps)) == pytest.approx(float(known[4] / known[:13].sum()), rel=1e-3)


def test_nothing_is_wanted_inside_of_several_tokens_of_the_base():
    """It may have begun its token within one of the student's, which none of the known ways is."""
    logits = torch.randn(3, ROWS, generator=torch.Generator().manual_seed(4))
    beliefs = Beliefs.of_logits([(0, 0), (3, 2)], [0, 1, 2], logits)
    assert not len(inside_of_tokens(beliefs, [0, 1, 2, 3], Splits(CUTS)).place)


def test_what_is_unlikely_is_left_to_the_rest():
    logits = torch.tensor([[0.0, -20.0, *[-30.0] * (ROWS - 2)]])
    beliefs = Beliefs.of_logits([(0, 0)], [0], logits)
    assert beliefs.token.tolist() == [0] and float(beliefs.mass) == pytest.approx(1)
    assert next_ids(beliefs, [0], Splits(CUTS), BY_FIRST).token.tolist() == [0]


def test_equal_beliefs_are_not_apart_and_others_are():
    """Divergences by hand, of sets of ids; where the student says what is wanted, there is no gradient either."""
    wanted = Targets(
        torch.tensor([0, 2]), torch.tensor([0, 0, 1]), torch.tensor([0.2, 0.8, 0.5]), torch.tensor([0, 1, 1, 2]),
        torch.tensor([0, 1, 2, 3]),
    )  # fmt: skip
    assert wanted.at.tolist() == [0, 0, 0, 2]
    same = torch.tensor([0.2, 0.3, 0.5, 0.5]).log().requires_grad_()
    apart = wanted.divergence(same)
    apart.sum().backward()
    assert float(apart.detach().abs().max()) < 1e-5
    other = wanted.divergence(torch.full((4,), 0.25).log())
    expected = [0.2 * math.log(0.2 / 0.25) + 0.8 * math.log(0.8 / 0.5), 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)]
    torch.testing.assert_close(other, torch.tensor(expected), atol=1e-5, rtol=1e-4)
    none = Targets.of_ids([])
    assert not len(none.divergence(torch.empty(0))) and not len(none.at)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    """Inside of tokens as often as they come: a sum, over as many as there are meetings; a term of none is nought."""
    some = Targets.of_ids([(0, torch.tensor([1]), torch.tensor([1.0])), (1, torch.tensor([1]), torch.tensor([1.0]))])
    more = Targets.of_ids([(i, torch.tensor([1]), torch.tensor([1.0])) for i in range(3)])
    joined = Targets.of_sets([(0, torch.tensor([1, 2]), torch.tensor([0, 1]), torch.tensor([1.0, 0.0]))])
    targets = {"next": some, "inside": more, "joined": joined, "branch": Targets.of_ids([])}
    logs = {"next": torch.tensor([-1.0, -2.0]), "inside": torch.tensor([-1.0] * 3), "branch": torch.empty(0)}
    logs["joined"] = torch.tensor([0.25, 0.75]).log()
    states = torch.zeros(2, 4), torch.ones(2, 4)
    terms = losses(
        targets, logs | {"text": torch.tensor([-3.0, -5.0])}, states, 2.0, TermWeights(2.0, 3.0, 5.0, 7.0, 9.0)
    )
    values = {name: float(value) for name, value in terms.items()}
    foreseen = math.log(4) / 2
    expected = {"hidden": 0.5, "next": 1.5, "inside": 1.5, "joined": foreseen, "branch": 0.0, "text": 4.0}
    assert values == pytest.approx(expected | {"loss": 2 * 0.5 + 3 * 1.5 + 3 * 1.5 + 9 * foreseen + 7 * 4.0})


def test_what_is_asked_for_has_the_gradient_of_a_log_softmax():
    logits = torch.randn(70, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float()
    row, token = torch.tensor([0, 69, 69, 3, 69]), torch.tensor([1, 8, 2, 0, 8])
    weights = torch.arange(1.0, 6.0)
    found = []
    for ask in (Asked.apply, lambda x, *at: x.log_softmax(dim=-1)[at]):
        mine = logits.clone().requires_grad_()
        logs = ask(mine, row, token)
        (logs * weights).sum().backward()
        found.append((logs.detach(), mine.grad))
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected)


def test_classes_know_their_members():
    """Of 40 student ids three are classes; one token of the student's begins with what no token of the teacher does."""
    teacher, student = torch.tensor([30, 2, -1, 30, 17]), torch.full((40,), -1)
    student[[2, 3, 17, 30, 31, 39]] = torch.tensor([2, 2, 17, 30, 30, 39])
    few = numbered(teacher, student)
    assert few[0].tolist() == [2, 0, -1, 2, 1] and few[1][[2, 3, 17, 30, 31, 39, 0]].tolist() == [0, 0, 1, 2, 2, -1, -1]
    classes = Classes.of(*few, (7, 31))  # rows that are no ids, and ids that have no row
    assert classes.of_teacher.tolist() == [2, 0, -1, 2, 1, -1, -1] and len(classes.of_student) == 31
    entry, token = classes.members(torch.tensor([2, 0, 0]))
    assert entry.tolist() == [0, 1, 1, 2, 2] and token.tolist() == [30, 2, 3, 2, 3]
    nothing = Classes.of(*numbered(torch.full((5,), -1), torch.full((40,), -1)), (5, 40))
    assert not len(nothing.members(torch.empty(0, dtype=torch.int64))[0])


def test_what_stands_for_a_token_in_text_gets_what_is_believed_of_it(beliefs):
    """Six times the teacher's 12 stands where the student has 4, once where it has 1 and 2 as it is cut on its own."""
    odd, even = (Piece([0, *ids, 3], [0, 5, 3], [(0, 0), (len(ids), 1), (len(ids) + 1, 2)]) for ids in ([4], [1, 2]))
    read = BY_FIRST.as_read([odd] * 6 + [even])
    index, group, share = read.spread(torch.tensor([5, 3, 13, 5]))
    assert index.tolist() == [0, 0, 1, 2, 3, 3] and group.tolist() == [4, 1, 3, -1, 4, 1]
    torch.testing.assert_close(share, torch.tensor([6 / 7, 1 / 7, 1.0, 1.0, 6 / 7, 1 / 7]))
    assert BY_FIRST.as_read([odd] * 200 + [even]).spread(torch.tensor([5]))[1].tolist() == [4]  # what is seldom is not
    assert BY_FIRST.as_read([odd] * 3).spread(torch.tensor([5]))[1].tolist() == [1]  # nor what was seen seldom
    strange = Piece([0, 99, 3], [0, 99, 3], odd.meet)  # ids that no head has a row for
    assert torch.equal(BY_FIRST.as_read([strange] * 9).to, BY_FIRST.to) and torch.equal(
        BY_FIRST.as_read([]).to, BY_FIRST.to
    )
    own, moved = (dense(next_ids(beliefs, STUDENT, Splits(CUTS), of))[0] for of in (BY_FIRST, read))
    apart, first = moved - own, beliefs.row == 0
    said = first & (BY_FIRST.of_teacher[beliefs.token] >= 0)
    share = beliefs.mass[first & (beliefs.token == 5)] / beliefs.mass[said].sum() * 6 / 7
    torch.testing.assert_close(apart[0, [1, 4]], torch.cat([-share, share]))
    assert (apart[:, 4] > 0).all() and (apart[:, [0, 2, 3, 5, 6, 7]].abs() < 1e-6).all()


def test_what_a_set_of_ids_leaves_open():
    """Which of its ids comes; nothing where the text's own id is in no set, or alone in one."""
    wanted = Targets(
        torch.tensor([0, 1, 3]), torch.tensor([0, 0, 1, 2]), torch.tensor([0.5, 0.2, 0.9, 0.4]),
        torch.tensor([0, 0, 1, 2, 3, 3]), torch.tensor([5, 6, 7, 2, 5, 6]),
    )  # fmt: skip
    logs = torch.tensor([0.2, 0.3, 0.1, 0.6, 0.4, 0.1]).log().requires_grad_()
    left = wanted.left_open(logs, torch.tensor([0, 6, 2, 9, 4]))  # behind 0, 1 and 3 come 6, 2 and 4
    torch.testing.assert_close(left, torch.tensor([math.log(0.5 / 0.3), 0.0]))
    left.sum().backward()
    torch.testing.assert_close(logs.grad, torch.tensor([0.4, -0.4, 0.0, 0.0, 0.0, 0.0]))
    assert not len(wanted.left_open(logs, torch.tensor([0, 9, 9, 9, 9])))
    least = wanted.left_open(logs.detach() - 60, torch.tensor([0, 6, 2, 9, 4]))
    torch.testing.assert_close(least, left.detach())


def test_branches_stand_behind_their_beginnings_and_repeat_none(beliefs):
    splits = Splits(CUTS)
    drawn = draw_branches(beliefs, splits, 12, torch.Generator().manual_seed(0))
    again = draw_branches(beliefs, splits, 12, torch.Generator().manual_seed(0))
    assert drawn == again and 4 < len(drawn) <= 12 and len(set(drawn)) == len(drawn)
    assert draw_branches(beliefs, splits, 0, torch.Generator()) == []
    starts = [cut for cut in CUTS if len(cut) > 1]
    for index, (row, path) in enumerate(drawn):
        assert any(tuple(cut[: len(path)]) == path and len(cut) > len(path) for cut in starts)
        assert len(path) == 1 or (row, path[:-1]) in drawn[:index]


@pytest.mark.parametrize("kind", ["llama", "gemma", "neox", "phi", "bloom"])
def test_a_branch_reads_as_its_text_alone(kind, beliefs):
    """Or the model is found out: Bloom has no positions that could be told."""
    model = model_of(kind)
    drawn = draw_branches(beliefs, Splits(CUTS), 12, torch.Generator().manual_seed(0))
    read = reads_branches(model, STUDENT, MEET, drawn)
    assert read == (kind != "bloom")
    if not read:
        return
    laid, n = lay_out(STUDENT, MEET, drawn), len(STUDENT)
    more = {"attention_mask": laid.mask(torch.float32), "position_ids": laid.position}
    with torch.no_grad():
        logits = model(input_ids=laid.ids, **more).logits[0]
        plain = model(input_ids=torch.tensor([STUDENT])).logits[0]
        torch.testing.assert_close(logits[:n], plain, atol=1e-5, rtol=1e-4)
        for index, (row, path) in enumerate(drawn):
            alone = [*STUDENT[: MEET[row][0] + 1], *path]
            wanted = model(input_ids=torch.tensor([alone])).logits[0, -1]
            torch.testing.assert_close(logits[n + index], wanted, atol=1e-5, rtol=1e-4)


def test_a_model_that_ignores_the_mask_is_found_out(beliefs):
    model = model_of("llama")
    drawn = draw_branches(beliefs, Splits(CUTS), 12, torch.Generator().manual_seed(0))
    real = model.forward

    def forward(input_ids, position_ids=None, **more):
        more.pop("attention_mask", None)
        return real(input_ids=input_ids, position_ids=position_ids, **more)

    model.forward = forward
    assert not reads_branches(model, STUDENT, MEET, drawn)


@pytest.mark.parametrize("seed", range(4))
def test_a_layer_that_mixes_neighbours_is_found_out(beliefs, seed):
    """Its convolution knows no mask, however little it adds."""
    from transformers import Lfm2Config, Lfm2ForCausalLM

    torch.manual_seed(seed)
    kinds = ["conv", "full_attention", "full_attention"]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = Lfm2ForCausalLM(Lfm2Config(vocab_size=8, layer_types=kinds, num_hidden_layers=3, **sizes)).eval()
    with torch.no_grad():
        model.model.layers[0].conv.out_proj.weight.mul_(0.05)
    drawn = draw_branches(beliefs, Splits(CUTS), 12, torch.Generator().manual_seed(0))
    assert not reads_branches(model, STUDENT, MEET, drawn)


@pytest.mark.parametrize(("positions", "read"), [(13, True), (12, False)])
def test_branches_stand_within_the_context_alone(positions, read, caplog):
    """The text has 8 ids, a branch up to five; a task asks for what is wanted there and for the text's own ids."""
    from tiny import llama

    student, teacher = (LoadedModel(llama(n).eval(), None, None) for n in (8, ROWS))
    student.model.config.max_position_embeddings = positions
    teacher.model.set_output_embeddings(AskedHead(teacher.model.get_output_embeddings()))
    piece = Piece(STUDENT, TEACHER, MEET)
    lesson = Lesson(student, teacher, Splits(CUTS), BY_FIRST, Joins([], [], ([], []), list), TermWeights(part=1.0), 0)
    lesson.prepare([piece])
    assert not lesson.student.model.training and ("leaves room for branches" in caplog.text) != read
    task = lesson.task(piece, 0)
    assert (
        (lesson.branches > 0) == (task.ids.shape[1] > len(STUDENT)) == (len(task.targets["branch"].place) > 0) == read
    )
    assert task.ids[0, : len(STUDENT)].tolist() == STUDENT and task.token[-7:].tolist() == STUDENT[1:]
    assert task.place[task.row[-7:]].tolist() == list(range(7)) and len(task.states) == len(MEET)


def test_masses_that_round_above_one_leave_nothing_below_nought():
    """A logarithm of it would be no number, and the training lost."""
    n = 20
    splits = Splits([[0, 1 + i] for i in range(n)])
    for seed in range(60):
        beliefs = Beliefs.of_logits([(0, 0)], [0], torch.randn(1, n, generator=torch.Generator().manual_seed(seed)))
        wanted = behind_branches(beliefs, [(0, (0,))], 1, splits)
        assert float(wanted.mass.sum()) == pytest.approx(1, abs=1e-5)
        assert torch.isfinite(wanted.divergence(torch.full((n,), 1 / n).log())).all()


def model_of(kind):
    from tiny import llama, steady
    from transformers import (
        BloomConfig,
        BloomForCausalLM,
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        PhiConfig,
        PhiForCausalLM,
    )  # fmt: skip

    torch.manual_seed(0)
    few = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    if kind == "llama":
        return llama(8).eval()
    if kind == "gemma":
        more = {"num_key_value_heads": 1, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
        config = Gemma3TextConfig(**few, **more, num_hidden_layers=2, sliding_window=64)
        return steady(Gemma3ForCausalLM(config), 1).eval()
    if kind == "neox":
        return steady(GPTNeoXForCausalLM(GPTNeoXConfig(**few, num_hidden_layers=1)), 1).eval()
    if kind == "phi":
        return steady(PhiForCausalLM(PhiConfig(**few, num_hidden_layers=1)), 1).eval()
    return steady(BloomForCausalLM(BloomConfig(vocab_size=8, hidden_size=16, n_layer=1, n_head=2)), 1).eval()
