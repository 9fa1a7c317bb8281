"""Ring arithmetic against Python integers."""

from __future__ import annotations

import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.numerics import ring
from holdfast.seeds import derive


def signed(value: int, width: int) -> int:
    value %= 2**width
    return value - 2**width if value >= 2 ** (width - 1) else value


@pytest.mark.parametrize(("dtype", "width"), [(torch.int32, 32), (torch.int64, 64)])
def test_products_wrap(dtype: torch.dtype, width: int) -> None:
    info, generator = torch.iinfo(dtype), derive(0, "ring").torch()
    left = torch.randint(info.min, info.max, (3, 5), generator=generator, dtype=dtype)
    right = torch.randint(info.min, info.max, (5, 2), generator=generator, dtype=dtype)
    expected = [
        [signed(sum(int(left[i, k]) * int(right[k, j]) for k in range(5)), width) for j in range(2)] for i in range(3)
    ]
    assert ring.matmul(left, right).tolist() == expected


def test_wrap32() -> None:
    values = [2**31, -(2**31) - 1, 2**32 + 5, -1, 2**62 + 3]
    assert ring.wrap32(torch.tensor(values)).tolist() == [signed(value, 32) for value in values]


def test_exact_product_at_its_bound() -> None:
    left, right = torch.full((2, 1000), -128), torch.full((1000, 1), -128)
    assert ring.exact_product(left, right, left_bound=128, right_bound=128).tolist() == [[16_384_000]] * 2
    with pytest.raises(InvalidConfig, match="exact integers"):
        ring.exact_product(left, right, left_bound=2**31, right_bound=2**31)


def test_mixed_dtypes() -> None:
    with pytest.raises(InvalidConfig, match="ring product"):
        ring.matmul(torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int64))
