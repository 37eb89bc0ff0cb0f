"""Products of float32 matrices on a processor, by oneDNN.

The BLAS behind ``torch.mm`` leaves half of some processors' vector units idle (MKL on AMD: AVX2 where there is
AVX-512); 1x1 convolutions on one thread go the same way. oneDNN, which torch brings for its other convolutions, does
not. It is reached by the operator that ``torch.compile`` makes of a linear layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: None where torch was built without oneDNN
LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
#: oneDNN keeps what it prepares for every shape that it meets, a megabyte each: where a number of rows changes from
#: step to step, it gets a multiple of this many
_STEP = 256


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows @ matrix``, (..., K) and (K, N) -> (..., N); either may be a transpose. Nothing is differentiated."""
    single = rows.device.type == "cpu" and rows.dtype == torch.float32
    if LINEAR is None or not single or not rows.numel() or torch.compiler.is_compiling():  # a compiler has its own way
        return rows @ matrix
    return LINEAR(_dense(rows), _dense(matrix.T), None, "none", [], "")


def varying(rows: Tensor, matrix: Tensor) -> Tensor:
    """:func:`product` of rows (N, K) whose number is another one at each call."""
    return product(_padded(rows), matrix)[: len(rows)]


def summed(left: Tensor, right: Tensor) -> Tensor:
    """``left.T @ right`` of (N, K) and (N, M) for such a number N: (K, M)."""
    whole = len(left) - len(left) % _STEP
    return product(left[:whole].T, right[:whole]) + product(_padded(left[whole:]).T, _padded(right[whole:]))


def _padded(rows: Tensor) -> Tensor:
    """With rows of zeros, on a processor."""
    return F.pad(rows, (0, 0, 0, -len(rows) % _STEP)) if rows.device.type == "cpu" else rows


def _dense(matrix: Tensor) -> Tensor:
    """A part of a wider matrix would take oneDNN's reference, which nobody waits for."""
    return matrix if matrix.is_contiguous() or matrix.mT.is_contiguous() else matrix.contiguous()


class Product(torch.autograd.Function):
    """Rows (..., K) times the transpose of a weight (N, K): what a 1x1 convolution is, with its gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return product(rows, weight.T)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        rows, weight = ctx.saved_tensors
        grad_rows = product(grad, weight) if ctx.needs_input_grad[0] else None
        return grad_rows, product(rows.flatten(0, -2).T, grad.flatten(0, -2)).T
