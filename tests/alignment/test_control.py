"""Which rows of the base a control token takes, by what it is for."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from tiny import CHATML, byte_level
from tokenizers import AddedToken, Tokenizer, models, processors

from tokensurgeon import Provenance, Vocabulary, align
from tokensurgeon.alignment import Blend
from tokensurgeon.vocabulary import Role, TokenKey

GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content }}<end_of_turn>\n{% endfor %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<User>{{ m.content }}{% else %}<Assistant>"
    "{{ m.content }}<end>{% endif %}{% endfor %}"
)
LLAMA = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
)
UNUSED = tuple(f"<unused{i}>" for i in range(8))


def made(*specials, template=None, prefix=None, plain=(), **declared):
    """A vocabulary with control tokens in the order given, and text behind."""
    tokenizer = byte_level(600, specials=specials)
    tokenizer.add_tokens([AddedToken(literal, special=False) for literal in plain])
    if prefix:
        marker = (prefix, tokenizer.token_to_id(prefix))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{prefix} $A", special_tokens=[marker])
    return Vocabulary.from_tokenizer(tokenizer, {f"{role}_token": token for role, token in declared.items()}, template)


@cache
def smollm2():
    return made("<|endoftext|>", "<|im_start|>", "<|im_end|>", template=CHATML, bos="<|im_start|>", eos="<|im_end|>",
                unk="<|endoftext|>", pad="<|im_end|>")  # fmt: skip


@cache
def gemma():
    return made("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", template=GEMMA, prefix="<bos>",
                pad="<pad>", eos="<eos>", bos="<bos>", unk="<unk>", plain=("<s>", "</s>"))  # fmt: skip


@cache
def qwen():
    return made("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", template=CHATML,
                eos="<|im_end|>", pad="<|endoftext|>", plain=("<think>",))  # fmt: skip


@cache
def deepseek():
    return made("<begin>", "<end>", "<User>", "<Assistant>", template=DEEPSEEK, prefix="<begin>", bos="<begin>",
                eos="<end>", pad="<end>")  # fmt: skip


@cache
def llama3():
    names = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    return made(*names, template=LLAMA, prefix=names[0], bos=names[0], eos="<|eot_id|>")


def mapped(base, donor, **options):
    """Donor literal to the base's literals, a blend's as (input, head)."""
    aligned = align(base, donor, **options)
    found = {}
    for token_id in sorted(donor.roles.of()):
        blend, source = aligned.roles.get(token_id), int(aligned.plan.source[token_id])
        if blend is not None:
            rows = tuple(tuple(base.pieces[i] for i in ids) for ids in (blend.input, blend.head))
        else:
            rows = base.pieces[source] if source >= 0 else Provenance(aligned.plan.provenance[token_id]).label
        found[donor.pieces[token_id]] = rows
    return found


def test_a_literal_with_the_same_function_comes_first():
    """Base and donor have the same markers; one of them calls its turn's start BOS, and its document's end UNK."""
    same = {literal: literal for literal in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}
    assert mapped(qwen(), smollm2()) == same
    assert same.items() <= mapped(smollm2(), qwen()).items()


def test_turn_markers_are_no_bos_and_hold_it_where_texts_begin_with_them():
    base, donor = gemma(), smollm2()
    assert mapped(base, donor) == {
        "<|endoftext|>": "<eos>",
        "<|im_start|>": (("<bos>", "<start_of_turn>"), ("<start_of_turn>",)),
        "<|im_end|>": "<end_of_turn>",
    }
    aligned = align(base, donor)
    assert donor.pieces[aligned.beginning] == "<|im_start|>" and aligned.foreign == ()


def test_turn_markers_that_were_never_trained_stand_for_nothing():
    base, donor = gemma(), smollm2()
    untrained = {base.pieces.index(f"<{place}_of_turn>") for place in ("start", "end")}
    assert mapped(base, donor, untrained=untrained) == {
        "<|endoftext|>": "<eos>", "<|im_start|>": "<bos>", "<|im_end|>": "<eos>",
    }  # fmt: skip
    foreign = align(base, donor, untrained=untrained).foreign
    assert [donor.pieces[i] for i in foreign] == ["<|im_start|>", "<|im_end|>"]


def test_a_turn_marker_is_no_bos_where_the_base_reads_none():
    base = made("<|endoftext|>", bos="<|endoftext|>", eos="<|endoftext|>")
    for donor in (smollm2(), qwen()):
        found = mapped(base, donor)
        assert found["<|im_start|>"] == "reconstructed" and found["<|im_end|>"] == "<|endoftext|>"
        assert len(align(base, donor).foreign) == 2


def test_openers_of_a_base_that_was_never_trained_on_turns_stand_for_nothing():
    base = gemma()
    untrained = {base.pieces.index(f"<{place}_of_turn>") for place in ("start", "end")}
    found = mapped(base, llama3(), untrained=untrained)
    assert found["<|start_header_id|>"] == found["<|end_header_id|>"] == "reconstructed"
    assert mapped(base, deepseek(), untrained=untrained)["<User>"] == "reconstructed"


def test_a_token_that_the_base_never_emits_is_no_counterpart():
    base = made("<|endoftext|>", eos="<|endoftext|>")
    names, dead = [*base.pieces, "<fim_prefix>"], np.append(base.canonical, False)
    keys = (*base.keys, TokenKey(b"<fim_prefix>"))
    ids = {**base.roles.ids, Role.FIM_PREFIX: (len(names) - 1,)}
    base = replace(base, pieces=tuple(names), canonical=dead, keys=keys, roles=replace(base.roles, ids=ids))
    assert mapped(base, qwen())["<|fim_prefix|>"] == "reconstructed"


def test_the_same_tokens_with_other_merges_are_made_where_only_the_donor_emits_them():
    vocab = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}
    base, donor = (
        Vocabulary.from_tokenizer(Tokenizer(models.BPE(vocab, merges)))
        for merges in ([("a", "b")], [("a", "b"), ("ab", "c")])
    )
    assert align(base, donor).plan.source.tolist() == [0, 1, 2, 3, -1]
    assert align(donor, base).plan.source.tolist() == [0, 1, 2, 3, 4]  # dead here, and as it was


def test_a_donor_with_a_bos_of_its_own_gives_it():
    assert mapped(smollm2(), gemma()) == {
        "<pad>": "unreachable", "<eos>": "<|endoftext|>", "<bos>": "<|im_start|>", "<unk>": "reconstructed",
        "<start_of_turn>": "<|im_start|>", "<end_of_turn>": "<|im_end|>",
    }  # fmt: skip
    assert align(smollm2(), gemma()).beginning is None


def test_openers_of_one_token_and_of_several():
    opener = {name: ("<|im_start|>", *(qwen().pieces[i] for i in qwen().encode(f"{name}\n"))) for name in
              ("user", "assistant")}  # fmt: skip
    assert mapped(qwen(), deepseek()) == {
        "<begin>": "<|endoftext|>", "<end>": "<|im_end|>",
        "<User>": (opener["user"], opener["user"]), "<Assistant>": (opener["assistant"], opener["assistant"]),
    }  # fmt: skip
    both = ("<User>", "<Assistant>")
    assert mapped(deepseek(), qwen())["<|im_start|>"] == (("<begin>", *both), both)
    assert mapped(deepseek(), qwen())["<|im_end|>"] == "<end>"


def test_the_end_of_a_header_is_never_a_second_copy_of_a_newline():
    newline = qwen().pieces[qwen().encode("user\n")[-1]]
    found = mapped(qwen(), llama3())
    assert found["<|end_header_id|>"] == (("<|im_start|>", newline),) * 2
    assert found["<|start_header_id|>"] == "<|im_start|>" and found["<|eot_id|>"] == "<|im_end|>"
    assert found["<|end_of_text|>"] == "<|endoftext|>"
    assert mapped(llama3(), gemma())["<start_of_turn>"] == "<|start_header_id|>"


def test_one_token_for_a_document_s_begin_and_end_is_read_as_one_and_predicted_as_the_other():
    donor = made("<|endoftext|>", bos="<|endoftext|>", eos="<|endoftext|>", unk="<|endoftext|>")
    assert mapped(gemma(), donor) == {"<|endoftext|>": (("<bos>",), ("<eos>",))}
    assert mapped(qwen(), donor) == {"<|endoftext|>": "<|endoftext|>"}
    # with an end of turns beside it, a row for both is BOS alone: half of each costs 0.03 bits per byte of any text
    (blend,) = align(gemma(), donor).roles.values()
    assert blend.both == blend.ids
    other = made("<|endoftext|>", "<|im_start|>", "<|im_end|>", bos="<|endoftext|>", eos="<|endoftext|>")
    blend = align(gemma(), other).roles[0]
    assert blend.both == blend.input and gemma().pieces[blend.head[0]] == "<eos>"


def test_tags_of_html_are_no_control_tokens_in_either_direction():
    mistral = made("<unk>", "<s>", "</s>", prefix="<s>", unk="<unk>", bos="<s>", eos="</s>")
    assert mapped(gemma(), mistral) == {"<unk>": "<unk>", "<s>": "<bos>", "</s>": "<eos>"}
    base, donor = mistral, gemma()
    plan = align(base, donor).plan
    for tag in ("<s>", "</s>"):
        assert plan.provenance[donor.pieces.index(tag)] == Provenance.RECONSTRUCTED


def test_thinking_tools_and_infilling_match_by_literal_then_by_equivalents():
    donor = made("<PRE>", "<MID>", "<SUF>", "[TOOL_CALLS]", plain=("<think>", "</think>"))
    found = mapped(qwen(), donor)
    assert found["<PRE>"] == "<|fim_prefix|>" and found["<MID>"] == "<|fim_middle|>"
    assert found["<SUF>"] == found["[TOOL_CALLS]"] == "reconstructed"
    assert found["<think>"] == "<think>" and found["</think>"] == "reconstructed"


@pytest.mark.parametrize("rows", [590, 608, 640])
def test_the_same_tokenizer_keeps_every_row_in_its_place(rows):
    """Whatever either declares, dead ids and padding included."""
    base = made("<bos>", *UNUSED, bos="<bos>")
    donor = made("<bos>", *UNUSED, eos="<bos>", pad="<unused3>")
    n_rows = max(rows, len(donor))
    aligned = align(base, donor, n_rows=n_rows, base_rows=rows)
    kept = min(n_rows, rows)
    assert aligned.plan.source[:kept].tolist() == list(range(kept)) and (aligned.plan.source[kept:] < 0).all()
    assert not aligned.roles and not aligned.foreign
    dead = np.flatnonzero(~donor.canonical)
    assert len(dead) and not set(dead) & set(aligned.plan.anchors) and not set(dead) & set(aligned.plan.silenced)


def test_a_dead_id_that_the_base_has_dead_too_keeps_its_row():
    base, donor = made("<bos>"), made("<eos>", "<sep>")
    plan = align(base, donor).plan
    dead = [i for i in np.flatnonzero(~donor.canonical) if plan.source[i] >= 0]
    assert dead and all(base.keys[plan.source[i]] == donor.keys[i] for i in dead)
    assert not any(base.canonical[plan.source[i]] for i in dead)
    assert not set(dead) & set(plan.anchors)


def test_roles_of_a_template_with_a_system_turn_and_text_in_its_opener():
    roles = llama3().roles
    names = llama3().pieces
    assert [names[i] for i in roles.ids[Role.HEADER_END]] == ["<|end_header_id|>"]
    assert names[roles.ids[Role.EOS][0]] == "<|end_of_text|>"  # though the other is declared
    assert names[roles.openers[Role.SYSTEM][0]] == "<|start_header_id|>"
    assert names[roles.prefix] == "<|begin_of_text|>"


def test_an_override_comes_before_roles():
    base, donor = gemma(), smollm2()
    aligned = align(base, donor, overrides={"<|im_start|>": "the"})
    token_id = donor.pieces.index("<|im_start|>")
    assert token_id not in aligned.roles and aligned.plan.provenance[token_id] == Provenance.OVERRIDE
    ids = base.encode("the")
    assert aligned.blends[token_id] == Blend(tuple(ids[-1:]), tuple(ids[:1]))
