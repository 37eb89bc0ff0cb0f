"""Products by oneDNN are products: of parts, of transposes, of nothing, and with the gradients of a linear layer."""

from __future__ import annotations

import pytest
import torch
from support import relative, rng
from torch import Tensor

from ssn_core.models import product as products
from ssn_core.models.product import Product, product, summed, varying


def draw(*size: int) -> Tensor:
    return torch.randn(*size, generator=rng(3))


A, B = draw(6, 7), draw(7, 5)
CASES = {
    "dense": (A, B),
    "transposes": (A.T.contiguous().T, B.T.contiguous().T),
    "parts of wider ones": (draw(9, 20)[2:8, 3:10], draw(9, 20)[1:8, 2:7]),
    "transposed parts": (draw(20, 9)[3:10, 2:8].T, draw(20, 9)[2:7, 1:8].T),
    "spread out": (draw(1, 7).expand(6, 7), draw(1, 5).expand(7, 5)),
    "more dimensions": (draw(2, 3, 4, 7), B),
    "one row": (A[:1], B),
    "no rows": (A[:0], B),
    "nothing between": (A.T[:, :0], draw(0, 5)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_product_is_one(case: str, dtype: torch.dtype) -> None:
    rows, matrix = (x.to(dtype) for x in CASES[case])
    out = product(rows, matrix)
    assert (out.dtype, out.shape) == (dtype, (*rows.shape[:-1], matrix.shape[1]))
    wanted = rows.double() @ matrix.double()
    assert torch.allclose(out.double(), wanted, rtol=0, atol=0.1 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("dense", [True, False])
def test_gradients_are_those_of_a_linear_layer(dense: bool) -> None:
    rows, wide = draw(2, 3, 4, 7).requires_grad_(), draw(5, 9).requires_grad_()
    weight = (draw(5, 7) if dense else wide[:, 1:8]).detach().requires_grad_()
    upstream = draw(2, 3, 4, 5)
    ours = torch.autograd.grad(Product.apply(rows, weight), (rows, weight), upstream)
    for got, wanted in zip(ours, torch.autograd.grad(rows @ weight.T, (rows, weight), upstream), strict=True):
        assert relative(got, wanted) < 1e-6
    assert torch.autograd.gradcheck(Product.apply, (rows.double(), weight.double()))


@pytest.mark.skipif(products.LINEAR is None, reason="torch was built without oneDNN")
def test_a_changing_number_of_rows_is_few_shapes_to_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps a megabyte for every shape that it meets, so a long training would run out of memory."""
    met: set[tuple[int, ...]] = set()
    real = products.LINEAR

    def linear(rows: Tensor, weight: Tensor, *rest: object) -> Tensor:
        met.add((*rows.shape, *weight.shape))
        return real(rows, weight, *rest)

    monkeypatch.setattr(products, "LINEAR", linear)
    left, right, matrix = draw(1100, 20), draw(1100, 30), draw(20, 40)
    for count in (0, 1, 255, 256, 257, 511, 700, 701, 1000, 1001, 1100):
        some, others = left[:count], right[:count]
        assert torch.allclose(varying(some, matrix), some @ matrix, atol=1e-4)
        assert torch.allclose(summed(some, others), some.T @ others, atol=1e-3)
    assert len(met) == 5 + 4  # 256 to 1280 rows of a product, and of a sum 256 to 1024
