"""Call mergekit: what it would refuse is found before any work, then it merges."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokensurgeon.errors import InputError, MissingDependencyError
from tokensurgeon.merging.recipe import slices_of
from tokensurgeon.progress import Progress, Stage

__all__ = [
    "chat_template",
    "check_plan",
    "find_method",
    "layer_setting",
    "merged_tensors",
    "require_mergekit",
    "run_mergekit",
]

log = logging.getLogger(__name__)


def require_mergekit() -> None:
    """Import mergekit's registry, and register our methods.

    Raises:
        MissingDependencyError: Without mergekit.
    """
    if find_spec("mergekit") is None:
        raise MissingDependencyError("mergekit", "merge", "tokensurgeon merge")
    import_module("mergekit.merge_methods")
    import_module("tokensurgeon.merging.methods.register").register()


def find_method(name: str) -> Any:
    """A merge method by name.

    Raises:
        InputError: If there is none.
    """
    from mergekit.merge_methods import registered_methods

    known = {method.spec.name: method for method in registered_methods()}
    if name not in known:
        raise InputError(f"unknown merge_method {name!r}; known are {', '.join(sorted(known))}")
    return known[name]


def check_plan(merge: Any, places: Mapping[Any, Path]) -> list[Any]:
    """Let mergekit plan the whole merge on the models as they are: it sees what the recipe lacks.

    Args:
        merge: The configuration, its models as the recipe names them.
        places: Where they lie.

    Returns:
        For each tensor of the output, mergekit's task to merge it.

    Raises:
        InputError: What mergekit says, or that a slice goes beyond a model's layers.
    """
    from mergekit.architecture import get_architecture_info
    from mergekit.plan import MergePlanner

    method = find_method(merge.merge_method)
    known = {parameter.name for parameter in method.spec.parameters}
    for name in sorted(_parameter_names(merge) - known):
        log.warning("%s takes no parameter %s; mergekit ignores it", merge.merge_method, name)
    moved = located(merge, places)
    with _quiet() as options:
        try:
            for part in slices_of(merge):
                base = None if part.base is None else str(part.base)
                method.validate_inputs([str(model) for model in part.models], base)
            architecture = get_architecture_info(moved, options)
            _refuse_other_modules(architecture)
            config = _config_of(_first(moved))
            for part in slices_of(moved):
                for model, layers in part.sources:
                    has = _module(architecture).num_layers(_config_of(model))
                    if layers is not None and not 0 <= layers[0] < layers[1] <= has:
                        name = next(str(known) for known, place in places.items() if str(place) == model.model.path)
                        raise InputError(f"layer_range {list(layers)} does not lie within the {has} layers of {name}")
            planned = MergePlanner(moved, architecture, options, config).plan_to_disk(out_path="")  # writes nothing
            return [task.tensor_task for task in planned if hasattr(task, "tensor_task")]
        except (RuntimeError, ValueError, TypeError) as error:
            text = " ".join(str(error).split())
            for model, place in places.items():
                text = text.replace(str(place), str(model))
            raise InputError(text if isinstance(error, InputError) else f"{merge.merge_method}: {text}") from error


def run_mergekit(
    merge: Any,
    places: Mapping[Any, Path],
    out: Path,
    *,
    seed: int,
    device: str,
    progress: Progress | None,
) -> None:
    """Merge into ``out``, where a ``config.json`` lies already; safetensors are written, nothing else.

    Args:
        merge: The configuration, its models as the recipe names them.
        places: Where they lie, with the same tokenizer.
        out: Output directory.
        seed: For methods that draw.
        device: Where to compute, as torch names it.
        progress: Called with (stage, tensors done, tensors in all).
    """
    from mergekit.architecture import get_architecture_info
    from mergekit.graph import Executor
    from mergekit.plan import MergePlanner
    from transformers import AutoConfig, set_seed

    moved = located(merge, places)
    with _quiet(device) as options:
        set_seed(seed)
        config = AutoConfig.from_pretrained(out, trust_remote_code=False)
        planner = MergePlanner(moved, get_architecture_info(moved, options), options, config)
        targets = planner.plan_to_disk(out_path=str(out))
        done = Executor(targets, math_device=device, storage_device="cpu").run(quiet=True)
        for number, _ in enumerate(done, 1):
            if progress is not None:
                progress(Stage.MERGE.of(f"by {merge.merge_method}"), number, len(targets))


def merged_tensors(merge: Any, places: Mapping[Any, Path], like: Path, *, seed: int, device: str) -> dict[str, Any]:
    """Merge in memory, as `run_mergekit` does on disk.

    Args:
        merge: The configuration, its models as the recipe names them.
        places: Where they lie, with the same tokenizer.
        like: A directory with the output's ``config.json``.
        seed: For methods that draw.
        device: Where to compute, as torch names it.

    Returns:
        The output's tensors by name.
    """
    from mergekit.architecture import get_architecture_info
    from mergekit.common import dtype_from_name
    from mergekit.graph import Executor
    from mergekit.plan import MergePlanner
    from transformers import AutoConfig, set_seed

    moved = located(merge, places)
    with _quiet(device) as options:
        set_seed(seed)
        config = AutoConfig.from_pretrained(like, trust_remote_code=False)
        planned = MergePlanner(moved, get_architecture_info(moved, options), options, config).plan_to_disk(out_path="")
        saves = [task for task in planned if hasattr(task, "tensor_task")]  # their plan in memory fails at tied heads
        names: dict[Any, list[Any]] = {}
        for save in saves:
            names.setdefault(save.tensor_task, []).append(save)
        run = Executor(list(names), math_device=device, storage_device="cpu").run(quiet=True)
        return {
            save.tensor_name: tensor if save.dtype is None else tensor.to(dtype_from_name(save.dtype))
            for task, tensor in run
            if tensor is not None
            for save in names[task]
        }


def layer_setting(merge: Any, places: Mapping[Any, Path]) -> str:
    """The setting of ``config.json`` that counts layers; dots lead into nested tables."""
    from mergekit.architecture import get_architecture_info

    with _quiet() as options:
        return str(_module(get_architecture_info(located(merge, places), options)).num_layers_config_key())


def chat_template(wanted: str | None) -> str | None:
    """What ``chat_template`` in a recipe stands for; None keeps the tokenizer's own, and so does ``auto``.

    Raises:
        InputError: If it is neither a template nor the name of one that mergekit has.
    """
    if wanted is None or wanted == "auto":
        return None
    if "{" in wanted:
        return wanted
    folder = resources.files("mergekit._data.chat_templates")
    names = sorted(entry.name.removesuffix(".jinja") for entry in folder.iterdir() if entry.name.endswith(".jinja"))
    if wanted not in names:
        raise InputError(f"chat_template {wanted!r} is neither a template nor one of auto, {', '.join(names)}")
    return folder.joinpath(f"{wanted}.jinja").read_text("utf-8")


def located(merge: Any, places: Mapping[Any, Path]) -> Any:
    """The configuration with directories for names; paths with ``@`` or ``+`` are taken as they are."""
    from mergekit.common import ModelPath, ModelReference

    from tokensurgeon.merging.recipe import mapped

    return mapped(merge, lambda model: ModelReference(model=ModelPath.model_construct(path=str(places[model]))))


@contextmanager
def _quiet(device: str = "cpu") -> Iterator[Any]:
    """Options for mergekit; its open files are closed afterwards."""
    from mergekit.io.tasks import LoaderCache
    from mergekit.options import MergeOptions

    options = MergeOptions(device=device, clone_tensors=True, quiet=True)
    LoaderCache().setup(options)
    try:
        yield options
    finally:
        LoaderCache().flush_all()
        LoaderCache().loaders.clear()


def _first(merge: Any) -> Any:
    part = slices_of(merge)[0]
    return part.base if part.base is not None else part.models[0]


def _config_of(model: Any) -> Any:
    return model.config(trust_remote_code=False)


def _module(architecture: Any) -> Any:
    return next(iter(architecture.modules.values())).architecture


def _refuse_other_modules(architecture: Any) -> None:
    if len(architecture.modules) > 1:
        raise InputError(f"{architecture.architectures[0]} has several modules: {', '.join(architecture.modules)}")


def _parameter_names(merge: Any) -> set[str]:
    """All names under ``parameters``, wherever they stand."""
    found: set[str] = set()
    waiting = [merge]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            waiting += node.values()
        elif hasattr(type(node), "model_fields"):
            found |= set(getattr(node, "parameters", None) or ())
            waiting += [getattr(node, name) for name in type(node).model_fields if name != "parameters"]
    return found
