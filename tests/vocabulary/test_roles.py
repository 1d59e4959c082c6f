"""What control tokens are for, as templates show it."""

from __future__ import annotations

import pytest
from tiny import byte_level

from tokensurgeon.vocabulary import Role
from tokensurgeon.vocabulary.roles import find_roles

PHI = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
APART = "{% for m in messages %}<|{{ m.role }}_start|>{{ m.content }}<|{{ m.role }}_end|>{% endfor %}"
ENDLESS = "{% for m in messages %}<|{{ m.role }}|><|sep|>{{ m.content }}{% endfor %}"
REPEATED = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
TAGGED = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}"
)
NAMES = (
    "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|sep|>", "<s>", "</s>", "[INST]", "[/INST]",
    *(f"<|{role}_{place}|>" for role in ("user", "assistant", "system") for place in ("start", "end")),
)  # fmt: skip


def literals(template, **declared):
    """Role to literals."""
    tokenizer = byte_level(500, specials=NAMES)
    found = find_roles(tokenizer, {f"{name}_token": literal for name, literal in declared.items()}, template)
    return {role: [tokenizer.id_to_token(i) for i in ids] for role, ids in found.ids.items() if role not in (
        Role.BOS, Role.EOS)}, [tokenizer.id_to_token(i) for i in found.starts]  # fmt: skip


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (PHI, {"turn_end": "<|end|>", "user": "<|user|>", "assistant": "<|assistant|>", "system": "<|system|>"}),
        (TAGGED, {"turn_end": "<|end|>", "user": "<|user|>", "assistant": "<|assistant|>", "system": "<|system|>"}),
        (ENDLESS, {"user": "<|user|>", "assistant": "<|assistant|>", "system": "<|system|>"}),
        (APART, {"turn_end": "<|assistant_end|> <|user_end|>", "user": "<|user_start|>",
                 "assistant": "<|assistant_start|>", "system": "<|system_start|>"}),
    ],
)  # fmt: skip
def test_templates_show_what_opens_and_ends_turns(template, expected):
    found, _ = literals(template)
    assert {role.value: " ".join(names) for role, names in found.items()} == expected


def test_a_template_that_begins_every_turn_with_bos():
    found, starts = literals(REPEATED, bos="<s>", eos="</s>")
    assert found == {Role.TURN_END: ["</s>"], Role.USER: ["[INST]"], Role.ASSISTANT: ["[/INST]"]}
    assert starts == ["<s>"]


def test_a_special_token_that_is_null_is_no_text():
    """A template that writes ``None`` would begin with a word."""
    _, starts = literals("{{ bos_token }}" + PHI, bos=None)
    assert starts == ["<|user|>", "<|system|>"]
