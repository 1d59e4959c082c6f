"""Generate with vLLM, with a draft or without. Runs under an environment of its own, without tokensurgeon.

python benchmarks/peers/vllm_drafts.py TARGET DRAFT|none DRAFT_TOKENS NEW_TOKENS "own cache"|"one cache" < PROMPTS.json
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}  # fmt: skip


def main(target: str, draft: str, draft_tokens: int, new_tokens: int, cache: str) -> None:
    """Print texts and counts as one JSON object on stdout."""
    from vllm import LLM, SamplingParams

    prompts = json.load(sys.stdin)
    how = {"model": draft, "num_speculative_tokens": draft_tokens, "method": "draft_model"}
    with contextlib.redirect_stdout(sys.stderr):
        llm = LLM(
            model=target, dtype="bfloat16", max_model_len=1024, max_num_seqs=4, enforce_eager=True,
            disable_log_stats=False, disable_hybrid_kv_cache_manager=True if cache == "one cache" else None,
            speculative_config=None if draft == "none" else how,
        )  # fmt: skip
        asked = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        made = [output.outputs[0] for output in llm.generate(prompts, asked)]
        counts = {
            metric.name.removeprefix("vllm:spec_decode_num_"): metric.value
            for metric in llm.get_metrics()
            if "spec_decode" in metric.name and hasattr(metric, "value")
        }
    print(json.dumps({"ids": [list(one.token_ids) for one in made], "counts": counts}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
