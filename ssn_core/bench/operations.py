"""What a computation costs on any device: operations of its products and convolutions, and bytes it moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Work(NamedTuple):
    """``flops``: two for every multiply-add of a product or convolution, nothing else counted. ``traffic``: bytes read
    and written when every operation reads its inputs from memory and writes its outputs there."""

    flops: int
    traffic: int


def count(call: Callable[[], Any]) -> Work:
    """Run ``call`` once, backward passes included, and count. Not under inference mode, which hides the operations."""
    with _Counter() as counter:
        call()
    return Work(counter.flops, counter.traffic)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops = self.traffic = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.flops += _flops(func.overloadpacket.__name__.rstrip("_"), args, out)
        returns = func._schema.returns
        if not any(value.alias_info is not None and not value.alias_info.is_write for value in returns):  # no view
            self.traffic += sum(map(_bytes, tree_leaves((args, kwargs, out))))
        return out


def _bytes(value: Any) -> int:
    if not isinstance(value, Tensor):
        return 0
    return min(value.numel() * value.element_size(), value.untyped_storage().nbytes())  # an expanded one is small


def _flops(name: str, args: tuple, out: Any) -> int:
    if name in ("mm", "bmm", "mv", "dot"):
        return 2 * args[0].numel() * (args[1].shape[-1] if args[1].dim() == args[0].dim() > 1 else 1)
    if name in ("addmm", "baddbmm", "addmv"):
        return _flops({"addmm": "mm", "baddbmm": "bmm", "addmv": "mv"}[name], args[1:], out)
    if name == "convolution":
        return 2 * out.numel() * math.prod(args[1].shape[1:])
    if name == "convolution_backward":
        grad, _, weight = args[:3]
        return 2 * grad.numel() * math.prod(weight.shape[1:]) * sum(args[-1][:2])
    return 0
