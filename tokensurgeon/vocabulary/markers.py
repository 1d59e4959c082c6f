"""Name the control tokens that are known by their literal text, whatever a tokenizer declares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from tokensurgeon.vocabulary.token import Role

__all__ = ["FAMILIES", "KNOWN", "MARKER", "Family"]

MARKER = re.compile(r"[<\[].*\w.*[>\]]", re.DOTALL)
"""What control tokens look like, declared special or not."""

_KNOWN = {
    Role.BOS: "<s> <bos> <|begin_of_text|> <|begin▁of▁sentence|> <BOS_TOKEN> <|startoftext|> [CLS]",
    Role.EOS: "<eos> <|endoftext|> <|end_of_text|> <|end▁of▁sentence|> <EOS_TOKEN> [SEP] </s>",
    Role.TURN_END: "<|eom_id|> <|eom|> <|return|> <|call|>",
    Role.UNK: "<unk> <UNK> [UNK]",
    Role.MASK: "<mask> <MASK_TOKEN> [MASK]",
    Role.PAD: "<pad> <PAD> [PAD] <|pad|> <|▁pad▁|> <|finetune_right_pad_id|>",
    Role.THINK_START: "<think> [THINK] <|START_THINKING|>",
    Role.THINK_END: "</think> [/THINK] <|END_THINKING|>",
    Role.TOOLS_START: "[AVAILABLE_TOOLS] <tools>",
    Role.TOOLS_END: "[/AVAILABLE_TOOLS] </tools>",
    Role.TOOL_CALLS_START: "[TOOL_CALLS] <|tool▁calls▁begin|> <|START_ACTION|>",
    Role.TOOL_CALLS_END: "<|tool▁calls▁end|> <|END_ACTION|>",
    Role.TOOL_CALL_START: "<tool_call> <|tool_call|> <|tool_call_start|> <|tool▁call▁begin|>",
    Role.TOOL_CALL_END: "</tool_call> <|/tool_call|> <|tool_call_end|> <|tool▁call▁end|>",
    Role.TOOL_OUTPUT_START: "<tool_response> [TOOL_RESULTS] <|tool▁output▁begin|> <|START_TOOL_RESULT|>",
    Role.TOOL_OUTPUT_END: "</tool_response> [/TOOL_RESULTS] <|tool▁output▁end|> <|END_TOOL_RESULT|>",
    Role.FIM_PREFIX: "<|fim_prefix|> <fim_prefix> <fim-prefix> <|fim▁begin|> <PRE> [PREFIX]",
    Role.FIM_SUFFIX: "<|fim_suffix|> <fim_suffix> <fim-suffix> <|fim▁hole|> <SUF> [SUFFIX]",
    Role.FIM_MIDDLE: "<|fim_middle|> <fim_middle> <fim-middle> <|fim▁end|> <MID> [MIDDLE]",
    Role.FIM_PAD: "<|fim_pad|> <fim_pad> <fim-pad>",
    Role.REPOSITORY: "<|repo_name|> <repo_name> <reponame>",
    Role.FILE: "<|file_sep|> <file_sep> <|file_separator|> <filename>",
}

KNOWN: Mapping[str, Role] = {
    literal.replace("|", "\uff5c") if "\u2581" in literal else literal: role  # DeepSeek's, which have wide bars
    for role, literals in _KNOWN.items()
    for literal in literals.split()
}
"""Literal text to what it is for. The names of DeepSeek's fill-in-the-middle tokens say where the text lies, not
which: the prefix follows ``begin``, the suffix ``hole``."""


class Family(NamedTuple):
    """Turn markers that go together.

    Attributes:
        roles: What each literal is for.
        opener: How a turn opens, with the speaker's name in the place of ``{}``.
        names: What a user and an assistant are called there.
    """

    roles: Mapping[str, Role]
    opener: str = ""
    names: tuple[str, str] = ("user", "assistant")


FAMILIES = (
    Family({"<|im_start|>": Role.TURN_START, "<|im_end|>": Role.TURN_END}, "<|im_start|>{}\n"),
    Family({"<start_of_turn>": Role.TURN_START, "<end_of_turn>": Role.TURN_END}, "<start_of_turn>{}\n",
           ("user", "model")),
    Family({"<|start_header_id|>": Role.TURN_START, "<|end_header_id|>": Role.HEADER_END, "<|eot_id|>": Role.TURN_END},
           "<|start_header_id|>{}<|end_header_id|>\n\n"),
    Family({"<|header_start|>": Role.TURN_START, "<|header_end|>": Role.HEADER_END, "<|eot|>": Role.TURN_END},
           "<|header_start|>{}<|header_end|>\n\n"),
    Family({"<|start|>": Role.TURN_START, "<|message|>": Role.HEADER_END, "<|end|>": Role.TURN_END},
           "<|start|>{}<|message|>"),
    Family({"<|start_of_role|>": Role.TURN_START, "<|end_of_role|>": Role.HEADER_END},
           "<|start_of_role|>{}<|end_of_role|>"),
    Family({"<|START_OF_TURN_TOKEN|>": Role.TURN_START, "<|END_OF_TURN_TOKEN|>": Role.TURN_END,
            "<|USER_TOKEN|>": Role.USER, "<|CHATBOT_TOKEN|>": Role.ASSISTANT, "<|SYSTEM_TOKEN|>": Role.SYSTEM}),
    Family({"<\uff5cUser\uff5c>": Role.USER, "<\uff5cAssistant\uff5c>": Role.ASSISTANT,
            "<\uff5cend\u2581of\u2581sentence\uff5c>": Role.TURN_END}),
    Family({"<|user|>": Role.USER, "<|assistant|>": Role.ASSISTANT, "<|end|>": Role.TURN_END}),
    Family({"<|user|>": Role.USER, "<|assistant|>": Role.ASSISTANT}),
    Family({"<reserved_106>": Role.USER, "<reserved_107>": Role.ASSISTANT}),  # Baichuan 2
    Family({"[INST]": Role.USER, "[/INST]": Role.ASSISTANT, "</s>": Role.TURN_END}),
)  # fmt: skip
"""Base models often have turn markers in their vocabulary and no chat template that shows them."""
