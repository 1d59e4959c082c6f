"""mergekit's command, with the tokens of a union of tokenizers added in one call.

    python -m benchmarks.peers.union RECIPE OUT [OPTION ...]

mergekit adds them one by one, and the tokenizer builds its tables anew each time: 1 s a token where there are 200,000
(`benchmarks/LOG.md`). The result is the same, but for the order of what is added, which no two runs of mergekit share.
"""

from __future__ import annotations

import sys
from typing import Any

from mergekit.scripts.run_yaml import main
from mergekit.tokenizer import build
from transformers import PreTrainedTokenizerBase

_one_union, _add = build.build_union_tokenizer, PreTrainedTokenizerBase.add_tokens


def union(*given: Any, **named: Any) -> Any:
    """As ``build_union_tokenizer``; what it adds to the tokenizer that it gives is kept, and added at the end."""
    kept: list[Any] = []

    def keep(self: Any, tokens: Any, **options: Any) -> Any:
        by_union = sys._getframe(1).f_code is _one_union.__code__
        return kept.append(tokens) if by_union else _add(self, tokens, **options)

    PreTrainedTokenizerBase.add_tokens = keep  # type: ignore[method-assign]
    try:
        made = _one_union(*given, **named)
    finally:
        PreTrainedTokenizerBase.add_tokens = _add  # type: ignore[method-assign]
    made.add_tokens(kept)
    return made


if __name__ == "__main__":
    build.build_union_tokenizer = union
    main()
