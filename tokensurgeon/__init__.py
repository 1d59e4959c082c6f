"""Give a language model another tokenizer without training it, and know what that cost.

    >>> from tokensurgeon import TransplantOptions, transplant
    >>> report = transplant("path/to/base", "path/to/donor", "out", TransplantOptions(k=64))
    >>> report.alignment.plan.counts()

The parts work alone too, on vocabularies and tensors without any files: `Vocabulary`, `align`,
`solve_omp` and `build_rows`.
"""

import os
import sys

# "python -m" puts the current directory there: a model's, with a file such as torch.py perhaps. While Python looks for
# the module, argv[0] is "-m", and the rest of argv ends orig_argv, behind the module's name: ours, or what imports us.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and not __file__.startswith(f"{sys.path[0]}{os.sep}{__name__}"):
    _module = "".join(sys.orig_argv[-len(sys.argv) :][:1])
    if (_module.partition("m")[2] if _module.startswith("-") else _module).partition(".")[0] == __name__:
        del sys.path[0]

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokensurgeon.alignment import Alignment, Provenance, RowPlan, align
    from tokensurgeon.distilling import DistilOptions, distil
    from tokensurgeon.drafting import MakeDraftOptions, make_draft
    from tokensurgeon.errors import InputError, MissingDependencyError, VerificationError
    from tokensurgeon.evaluation.drafts import DraftOptions, bench_drafts
    from tokensurgeon.evaluation.evaluate import evaluate
    from tokensurgeon.gguf import export_gguf
    from tokensurgeon.healing import HealOptions, heal
    from tokensurgeon.merging import merge
    from tokensurgeon.merging.adapters.average import average_adapters
    from tokensurgeon.merging.adapters.pack import pack_adapters, unpack_adapter
    from tokensurgeon.merging.estimate.dam import train_dam
    from tokensurgeon.merging.estimate.dam_training import DamOptions
    from tokensurgeon.merging.estimate.expert_training import ExpertOptions
    from tokensurgeon.merging.estimate.fisher import estimate_fisher
    from tokensurgeon.merging.estimate.fw_training import FrankWolfeOptions
    from tokensurgeon.merging.search.run import SearchOptions, search_recipe
    from tokensurgeon.readiness import check, check_merge
    from tokensurgeon.solver.omp import SparseCoefficients, solve_omp
    from tokensurgeon.surgery.adapter import carry_adapter
    from tokensurgeon.surgery.compare import compare
    from tokensurgeon.surgery.extend import extend
    from tokensurgeon.surgery.options import ExtendOptions, TransplantOptions
    from tokensurgeon.surgery.pair import align_models
    from tokensurgeon.surgery.resize import resize
    from tokensurgeon.surgery.revert import revert
    from tokensurgeon.surgery.transplant import transplant
    from tokensurgeon.surgery.trim import trim
    from tokensurgeon.transfer.rows import VocabularyMatrices, build_rows
    from tokensurgeon.verification.verify import verify
    from tokensurgeon.vocabulary import Vocabulary

__all__ = [
    "Alignment",
    "DamOptions",
    "DistilOptions",
    "DraftOptions",
    "ExpertOptions",
    "ExtendOptions",
    "FrankWolfeOptions",
    "HealOptions",
    "InputError",
    "MakeDraftOptions",
    "MissingDependencyError",
    "Provenance",
    "RowPlan",
    "SearchOptions",
    "SparseCoefficients",
    "TransplantOptions",
    "VerificationError",
    "Vocabulary",
    "VocabularyMatrices",
    "align",
    "align_models",
    "average_adapters",
    "bench_drafts",
    "build_rows",
    "carry_adapter",
    "check",
    "check_merge",
    "compare",
    "distil",
    "estimate_fisher",
    "evaluate",
    "export_gguf",
    "extend",
    "heal",
    "make_draft",
    "merge",
    "pack_adapters",
    "resize",
    "revert",
    "search_recipe",
    "solve_omp",
    "train_dam",
    "transplant",
    "trim",
    "unpack_adapter",
    "verify",
]

_HOMES = {
    "Alignment": "alignment",
    "DamOptions": "merging.estimate.dam_training",
    "DistilOptions": "distilling",
    "DraftOptions": "evaluation.drafts",
    "ExpertOptions": "merging.estimate.expert_training",
    "ExtendOptions": "surgery.options",
    "FrankWolfeOptions": "merging.estimate.fw_training",
    "HealOptions": "healing",
    "InputError": "errors",
    "MakeDraftOptions": "drafting",
    "MissingDependencyError": "errors",
    "Provenance": "alignment",
    "RowPlan": "alignment",
    "SearchOptions": "merging.search.run",
    "SparseCoefficients": "solver.omp",
    "TransplantOptions": "surgery.options",
    "VerificationError": "errors",
    "Vocabulary": "vocabulary",
    "VocabularyMatrices": "transfer.rows",
    "align": "alignment",
    "align_models": "surgery.pair",
    "average_adapters": "merging.adapters.average",
    "bench_drafts": "evaluation.drafts",
    "build_rows": "transfer.rows",
    "carry_adapter": "surgery.adapter",
    "check": "readiness",
    "check_merge": "readiness",
    "compare": "surgery.compare",
    "distil": "distilling",
    "estimate_fisher": "merging.estimate.fisher",
    "evaluate": "evaluation.evaluate",
    "export_gguf": "gguf",
    "extend": "surgery.extend",
    "heal": "healing",
    "make_draft": "drafting",
    "merge": "merging",
    "pack_adapters": "merging.adapters.pack",
    "resize": "surgery.resize",
    "revert": "surgery.revert",
    "search_recipe": "merging.search.run",
    "solve_omp": "solver.omp",
    "train_dam": "merging.estimate.dam",
    "transplant": "surgery.transplant",
    "trim": "surgery.trim",
    "unpack_adapter": "merging.adapters.pack",
    "verify": "verification.verify",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that ``--help`` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tokensurgeon' has no attribute {name!r}")
    value = getattr(import_module(f"tokensurgeon.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
