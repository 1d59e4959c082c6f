"""Find, open and compare the models of a recipe before any work."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint import TokenizerFiles, resolve
from tokensurgeon.checkpoint.cache import cache_directory, is_kept, kept
from tokensurgeon.checkpoint.digest import file_digest
from tokensurgeon.checkpoint.foreign import copy_if_there, taken_files
from tokensurgeon.checkpoint.layout import read_config
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel, other_files
from tokensurgeon.checkpoint.names import MANIFEST
from tokensurgeon.errors import InputError

__all__ = ["Model", "content_digest", "glance", "is_buffer", "open_model", "refuse_unlike"]

log = logging.getLogger(__name__)


class Model(OpenModel):
    """One model of a recipe, by the name that the recipe gives it."""

    @property
    def short(self) -> str:
        """The name without the folders that a local model lies in."""
        return Path(self.name).name if Path(self.name.partition("+")[0]).expanduser().exists() else self.name

    @property
    def body(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what is not vocabulary-sized, by name."""
        layout = self.layout
        own = {layout.embedding, layout.head, layout.bias, *layout.stale, *layout.unclaimed}
        return {n: info.shape for n, info in self.checkpoint.tensors.items() if n not in own and not is_buffer(n)}


def is_buffer(name: str) -> bool:
    """Whether a tensor is one that old checkpoints hold and models compute anew; mergekit does not write it."""
    return name.endswith("rotary_emb.inv_freq")


def glance(references: Sequence[Any]) -> None:
    """Refuse models that are missing, or of different architectures, before the weights of any are fetched.

    Raises:
        InputError: Naming the model.
    """
    seen: list[tuple[str, str]] = []
    for reference in references:
        if reference.override_architecture is not None:
            raise InputError(
                f"{reference}: override_architecture is not supported; give a model whose config.json is right"
            )
        seen.append((str(reference), _architecture(resolve(str(reference.model), weights="none"))))
        if reference.lora is not None:
            resolve(str(reference.lora), weights="adapter")
    first, kind = seen[0]
    for name, other in seen:
        if other != kind:
            raise InputError(f"{name} is a {other}, {first} a {kind}: only models of one architecture merge")


def open_model(reference: Any) -> Model:
    """Resolve a model reference; an adapter (``model+adapter``) is merged into its model first.

    Raises:
        InputError: If there is no such model, or it is of a kind that cannot be merged here.
    """
    name = str(reference)
    directory = resolve(str(reference.model))
    if reference.lora is not None:
        directory = _with_adapter(name, directory, resolve(str(reference.lora), weights="adapter"))
    model = Model(name, directory, TokenizerFiles.open(directory))
    if model.config.get("quantization_config"):
        raise InputError(f"{name} is quantised; mergekit merges floating-point tensors. Give the model it was made of")
    model.checked(moved=False)
    manifest = Manifest.read(directory)
    if manifest is not None and manifest.plan.n_rows != model.layout.rows:
        raise InputError(
            f"{name} has {model.layout.rows} rows, and its {MANIFEST} tells of {manifest.plan.n_rows}: the model "
            f"was changed since. Remove {directory / MANIFEST}; all rows count as the model's own then"
        )
    return model


def _with_adapter(name: str, directory: Path, adapter: Path) -> Path:
    """The model with a LoRA adapter merged into it, by PEFT, in the cache."""
    digest = hashlib.sha256((content_digest(directory) + content_digest(adapter)).encode()).hexdigest()
    out = cache_directory() / "merge" / f"{directory.name}-and-{adapter.name}-{digest[:12]}"
    if is_kept(out):
        return out
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    log.warning("merging the adapter of %s into its model (once; kept in %s)", name, out)
    with kept(out) as work:
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", trust_remote_code=False)
            with torch.no_grad():
                model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            raise InputError(f"{name}: the adapter does not fit the model ({' '.join(str(error).split())})") from error
        model.save_pretrained(work)
        TokenizerFiles.open(directory).write(work, code=True)
        copy_if_there(directory / MANIFEST, work / MANIFEST)
    return out


def content_digest(directory: Path) -> str:
    """SHA-256 of a model's or adapter's files: weights, configuration and tokenizer."""
    sha = hashlib.sha256()
    names = ("*.safetensors", "adapter_model.bin", MANIFEST)
    chosen = [path for path in taken_files(directory) if any(path.match(name) for name in names)]
    for path in sorted({*chosen, *other_files(directory)}):
        sha.update(f"{path.name}\0{file_digest(path)}\n".encode())
    return sha.hexdigest()


def refuse_unlike(models: Sequence[Model], *, whole: bool) -> None:
    """Models that are not of one shape, the first being the measure.

    Args:
        models: At least one.
        whole: Whether all layers meet; otherwise the models may have different numbers of them.

    Raises:
        InputError: Naming the model, and the tensor.
    """
    first = models[0]
    shapes = _shapes(first, whole)
    for model in models[1:]:
        theirs = _shapes(model, whole)
        for name in sorted(set(shapes) | set(theirs)):
            if name not in shapes or name not in theirs:
                has, lacks = (first, model) if name in shapes else (model, first)
                raise InputError(f"{has.name} has a tensor {name}, {lacks.name} has none: their shapes must agree")
            if shapes[name] != theirs[name]:
                raise InputError(
                    f"{name} has shape {_shown(theirs[name])} in {model.name} and {_shown(shapes[name])} in "
                    f"{first.name}: only models of one shape merge"
                )
        if model.layout.dim != first.layout.dim:
            raise InputError(
                f"{model.layout.embedding} is {model.layout.dim} wide in {model.name} and {first.layout.dim} in "
                f"{first.name}: only models of one shape merge"
            )
        if model.layout.tied != first.layout.tied:
            tied, untied = (model, first) if model.layout.tied else (first, model)
            raise InputError(
                f"{tied.name} has its LM head tied to {tied.layout.embedding}, {untied.name} has a head of its own. "
                f"Untie it first: tokensurgeon {tied.name} {tied.name} --untie --out DIR"
            )


def _architecture(directory: Path) -> str:
    config = read_config(directory)
    return str((config.get("architectures") or [config.get("model_type", "unknown")])[0])


def _shapes(model: Model, whole: bool) -> dict[str, tuple[int, ...] | str]:
    if whole:
        return dict(model.body)
    found: dict[str, set[tuple[int, ...]]] = {}
    for name, shape in model.body.items():
        found.setdefault(re.sub(r"\.\d+\.", ".N.", name), set()).add(shape)
    return {name: json.dumps(sorted(shapes)) for name, shapes in found.items()}


def _shown(shape: tuple[int, ...] | str) -> str:
    return shape if isinstance(shape, str) else str(list(shape))
