"""Pack adapters of one base into one file, and take one out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tokensurgeon.checkpoint.header import read_header
from tokensurgeon.checkpoint.staging import check_target
from tokensurgeon.errors import InputError
from tokensurgeon.merging.adapters.opened import open_adapters, write_adapter
from tokensurgeon.merging.estimate.files import SUFFIX, write_file
from tokensurgeon.merging.methods.rmm import pack, unpack
from tokensurgeon.report.markdown import code

__all__ = ["PackReport", "pack_adapters", "unpack_adapter"]

_KEY = "tokensurgeon_adapters"
_BASIS, _COEFFICIENTS = ":basis", ":coefficients"


@dataclass(frozen=True, slots=True)
class PackReport:
    """What was packed.

    Attributes:
        out: The file.
        keep: Of how many tensors each tensor of an adapter is made.
        errors: By adapter, what comes back differs by: norm of the difference over the adapter's own.
        bytes: Of the file.
        bytes_before: Of the adapters' tensors.
    """

    out: Path
    keep: int
    errors: dict[str, float]
    bytes: int
    bytes_before: int


def pack_adapters(
    adapters: Sequence[str], out: Path | str, *, keep: int | None = None, overwrite: bool = False
) -> PackReport:
    """Write one file from which every adapter comes back, as a combination of a few tensors (arXiv 2510.14163).

    For each tensor that the adapters have in common, the basis is the best there is: see
    `tokensurgeon.merging.methods.rmm.pack`. The paper goes through a factor row by row; here a factor is taken as a
    whole, so that it needs few coefficients.

    Args:
        adapters: Directories or hub ids, two or more, whose tensors have the same names and shapes.
        out: A ``.safetensors`` file.
        keep: Tensors of the basis; all n by default, from which the adapters come back but for rounding.
        overwrite: Replace a file that exists.

    Raises:
        InputError: If adapters do not go together, or ``keep`` is less than 1 or above n.

    Example:
        >>> import tokensurgeon
        >>> report = tokensurgeon.pack_adapters(["adapter", "adapter2"], "pack.safetensors")
        >>> all(error < 1e-6 for error in report.errors.values())
        True
    """
    target = Path(out).expanduser()
    check_target(target, overwrite, adapters, suffix=SUFFIX)
    kept = len(adapters) if keep is None else keep
    opened = open_adapters(adapters)
    written: dict[str, torch.Tensor] = {}
    apart, whole = torch.zeros(len(opened)).double(), torch.zeros(len(opened)).double()
    for name in opened[0].tensors:
        tensors = [of.tensors[name] for of in opened]
        basis, coefficients = pack(tensors, kept)
        written[name + _BASIS], written[name + _COEFFICIENTS] = basis.float(), coefficients
        for number, (tensor, back) in enumerate(zip(tensors, unpack(basis.float(), coefficients), strict=True)):
            apart[number] += (tensor.double() - back.to(tensor.dtype).double()).square().sum()
            whole[number] += tensor.double().square().sum()
    about = [
        {"name": of.name, "config": of.config, "dtypes": {n: str(t.dtype)[6:] for n, t in of.tensors.items()}}
        for of in opened
    ]
    write_file(target, written, {_KEY: json.dumps(about)}, overwrite=overwrite)
    errors = [math.sqrt(a / w) if w > 0 else 0.0 for a, w in zip(apart.tolist(), whole.tolist(), strict=True)]
    before = sum(tensor.numel() * tensor.element_size() for of in opened for tensor in of.tensors.values())
    names = [of.name for of in opened]
    return PackReport(target, kept, dict(zip(names, errors, strict=True)), target.stat().st_size, before)


def unpack_adapter(packed: Path | str, adapter: str, out: Path | str, *, overwrite: bool = False) -> Path:
    """Take one adapter out of a file that `pack_adapters` wrote.

    Args:
        packed: The file.
        adapter: The name of its directory.
        out: Output directory.
        overwrite: Replace an adapter that exists.

    Returns:
        The output.

    Raises:
        InputError: If the file is no pack, or has no such adapter.

    Example:
        >>> import tokensurgeon
        >>> tokensurgeon.unpack_adapter("packed.safetensors", "adapter2", "out").name
        'out'
    """
    target, place = Path(out).expanduser().absolute(), Path(packed).expanduser()
    check_target(target, overwrite, (str(packed),))
    about = _about(place)
    names = [str(one["name"]) for one in about]
    if adapter not in names:
        raise InputError(f"{packed} has no adapter {adapter}; it has {', '.join(names)}")
    number = names.index(adapter)
    config, dtypes = about[number]["config"], about[number]["dtypes"]
    with safe_open(place, framework="pt") as file:
        tensors = {
            name: unpack(file.get_tensor(name + _BASIS), file.get_tensor(name + _COEFFICIENTS)[number])
            .to(getattr(torch, dtype))
            .contiguous()
            for name, dtype in dtypes.items()
        }
    write_adapter(target, overwrite, config, tensors, f"The adapter {code(adapter)}, out of {code(place.name)}.")
    return target


def _about(place: Path) -> list[dict[str, Any]]:
    if not place.is_file():
        raise InputError(f"{place} is no file; give one that tokensurgeon adapters pack wrote")
    tensors, metadata = read_header(place)
    try:
        about = json.loads(metadata[_KEY])
        for one in about:
            wanted = {name + part for name in one["dtypes"] for part in (_BASIS, _COEFFICIENTS)}
            if not wanted <= tensors.keys() or not isinstance(one["config"], dict) or "name" not in one:
                raise KeyError(_KEY)
            if not all(isinstance(getattr(torch, dtype, None), torch.dtype) for dtype in one["dtypes"].values()):
                raise KeyError(_KEY)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{place} is no file that tokensurgeon adapters pack wrote") from error
    return list(about)
