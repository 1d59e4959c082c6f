"""Which architectures take a tokenizer: tiny random models of each, transplanted and verified.

    python -m benchmarks.experiments.architectures benchmarks/experiments/architectures.toml

The tensors are found from the model class itself, not from a list, so that others work too.
"""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks.common.provenance import provenance
from tokensurgeon import InputError, TransplantOptions, VerificationError, transplant
from tokensurgeon.evaluation.texts import python_text

RESULTS = Path(__file__).parents[1] / "results"
ROLES = ("bos", "eos", "pad")
_SPECIAL = ("<pad>", "<bos>", "<eos>")


def main(path: Path, results: Path = RESULTS) -> None:
    """Run the experiment file and write its result."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    experiment = tomllib.loads(path.read_text())
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment, "architectures": {}}
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-architectures-") as work:
        donor = build(experiment["architectures"]["llama"], experiment["sizes"], "llama", Path(work) / "donor", 900)
        for name, settings in experiment["architectures"].items():
            result["architectures"][name] = attempt(name, settings, experiment["sizes"], donor, Path(work))
            print(name, result["architectures"][name], flush=True)
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


def attempt(
    name: str, settings: dict[str, Any], sizes: dict[str, Any], donor: Path, work: Path
) -> dict[str, str | bool | list[str]]:
    """Transplant onto a tiny model: what it is like, or why it is refused."""
    base = build(settings, sizes, name, work / name, 700)
    try:
        report = transplant(str(base), str(donor), work / f"{name}-out", TransplantOptions(k=8))
    except (InputError, VerificationError) as error:
        return {"works": False, "reason": str(error).replace(str(work / name), "it")}
    side = report.content["base"]
    return {"works": True, "tied": side["tied"], "tensors": [n for n in side["sha256"] if "weight" in n or "bias" in n]}


def build(settings: dict[str, Any], sizes: dict[str, Any], name: str, out: Path, n_tokens: int) -> Path:
    """A tiny random model of a type, with a byte-level tokenizer."""
    tokenizer = _tokenizer(n_tokens)
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    save(random_model(settings, sizes, name, len(tokenizer)), ids, out)
    tokenizer.save_pretrained(out)
    return out


def random_model(settings: dict[str, Any], sizes: dict[str, Any], name: str, n_rows: int) -> Any:
    """A tiny random model of a type, the same every time."""
    own = dict(settings)
    cls = getattr(transformers, own.pop("class", "AutoModelForCausalLM"))
    common = {} if own.pop("alone", False) else dict(sizes)
    if own.pop("per_layer", False):
        own["vocab_size_per_layer_input"] = n_rows - 5  # as real ones, fewer
    config = transformers.AutoConfig.for_model(name, **_sized({**common, **own}, n_rows))
    torch.manual_seed(0)
    model = cls.from_config(config) if hasattr(cls, "from_config") else cls(config)
    with torch.no_grad():  # states of trained models have much in common, and so have these
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.15)
        model.get_input_embeddings().weight += torch.randn(model.get_input_embeddings().weight.shape[1])
    return model


def save(model: Any, ids: Mapping[str, int | None], out: Path) -> None:
    """Write a model whose settings name its tokenizer's special ids, by role."""
    for role in ROLES:
        for part in (model.config, model.generation_config):
            setattr(part, f"{role}_token_id", ids.get(role))
    model.save_pretrained(out)


def _sized(settings: dict[str, Any], n_tokens: int) -> dict[str, Any]:
    """The vocabulary's size, in the text part of composite configurations."""
    if "text_config" in settings:
        return settings | {"text_config": settings["text_config"] | {"vocab_size": n_tokens}}
    return settings | {"vocab_size": n_tokens}


def _tokenizer(size: int) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(_SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(python_text(100_000).splitlines(), trainer)
    pad, bos, eos = _SPECIAL
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
