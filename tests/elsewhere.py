"""A device that is not the CPU, on the CPU: mixing it with the CPU fails, and what waits for it is counted.

Its tensors say that they are on ``meta``, which asks for no driver, and carry their values along. So code that is
written for GPUs gives real results here, and makes the same mistakes as on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["ELSEWHERE", "Elsewhere"]

ELSEWHERE = torch.device("meta")
_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "repeat_interleave", "bincount"}
"""Operations whose result, or the shape of whose result, the program must know before it goes on."""
_COPIES = {"copy_", "_to_copy", "to"}


class _Tensor(torch.Tensor):
    """A tensor elsewhere."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> Self:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(),
            dtype=values.dtype, device=ELSEWHERE,
        )  # fmt: skip
        tensor.held = values
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} is called outside of `Elsewhere`")


class _Data(TorchFunctionMode):
    """``torch.tensor([1, 2], device=ELSEWHERE)``, which comes with values that `Elsewhere` would not see."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and (device := kwargs.pop("device", None)) is not None:
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class Elsewhere(TorchDispatchMode):
    """While it is open, there is such a device.

    Attributes:
        waits: How often the program waited for a result, by operation.
    """

    def __init__(self) -> None:
        """Nothing was waited for."""
        super().__init__()
        self.waits: Counter[str] = Counter()
        self._data = _Data()

    def __enter__(self) -> Self:
        """Models that are moved there get new parameters."""
        self._data.__enter__()
        self._before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *how: Any) -> None:
        """The device is gone."""
        super().__exit__(*how)
        torch.__future__.set_overwrite_module_params_on_conversion(self._before)
        self._data.__exit__(*how)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Do on the CPU what is asked of that device."""
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        away = any(isinstance(tensor, _Tensor) for tensor in tensors)
        here = any(tensor.ndim and not isinstance(tensor, _Tensor) for tensor in tensors)
        if away and here and name not in _COPIES:
            raise RuntimeError(f"{func}: tensors on different devices, {[str(tensor.device) for tensor in tensors]}")
        stays = away
        if name == "copy_":
            stays = isinstance(args[0], _Tensor)
        elif asked := [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]:
            stays = asked == [ELSEWHERE]
        masked = name in ("index", "index_put_") and torch.bool in {getattr(i, "dtype", 0) for i in args[1]}
        if away and (name in _WAITS or masked or not stays):
            self.waits[name] += 1
        with torch.inference_mode(False), torch.no_grad():  # views of what that mode makes are not for such tensors
            result = func(*tree_map(_values, args), **tree_map(_values, kwargs))
            return tree_map(_taken, result) if stays else result


def _values(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.held if isinstance(leaf, _Tensor) else leaf


def _taken(leaf: Any) -> Any:
    return _Tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf
