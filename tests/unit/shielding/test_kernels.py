"""Exact int8 products: whichever kernel is chosen, it has shown itself exact in this process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from holdfast.shielding import kernels
from holdfast.shielding.kernels import MOST_INNER, int8_matmul, kernel, self_test, true_matmul


def saturating(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply as processors without VNNI do when nobody looks: left made unsigned, sums of two clipped to 16 bits."""
    products = (left[:, :, None].int() + 128) * right[None].int()
    pairs = torch.nn.functional.pad(products, (0, 0, 0, products.shape[1] % 2)).unflatten(1, (-1, 2)).sum(2)
    total = pairs.clamp(-(2**15), 2**15 - 1).sum(1) - 128 * right.int().sum(0)
    return total.to(torch.int32)


def test_the_self_test_refuses_saturation_floats_and_wrong_shapes() -> None:
    assert "wrong numbers" in str(self_test(saturating))
    assert "wrong numbers" in str(self_test(lambda a, b: (a.float() @ b.float()).to(torch.int32)))
    assert "wrong numbers" in str(self_test(lambda a, b: (a.double() @ b.double()).long()))
    assert "wrong numbers" in str(self_test(lambda a, b: int8_matmul(a, b)[:, :1]))
    assert "NotImplementedError" in str(self_test(unavailable))


def unavailable(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError("not on this device")


def test_matrices_of_one_row_or_column_keep_no_misleading_strides() -> None:
    """A transposed column has strides that name two layouts; torch._int_mm then leaves its output unwritten."""
    left, column = torch.tensor([[106]], dtype=torch.int8), torch.tensor([[44], [-81]], dtype=torch.int8)
    assert column.t().stride() == (1, 1)
    assert int8_matmul(left, column.t()).tolist() == [[106 * 44, -106 * 81]]


def test_windows_that_overlap_in_memory_are_copied_first() -> None:
    window = torch.arange(20, dtype=torch.int8).as_strided((2, 14), (5, 1))
    assert int8_matmul(torch.tensor([[3, -7]], dtype=torch.int8), window).tolist() == [
        [3 * place - 7 * (place + 5) for place in range(14)]
    ]


@pytest.mark.parametrize("matmul", [kernels._float32, kernels._float64, kernels._aligned_int_mm])
def test_the_other_ways_are_exact_too(matmul: kernels.Matmul) -> None:
    if matmul is kernels._aligned_int_mm and kernel("cpu").name != "int-mm":
        pytest.skip("torch._int_mm is not exact on this processor, and the kernel says so")
    assert self_test(matmul) is None


def test_cuda_s_library_gets_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []
    product = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda *sides: asked.append(sides) or product(*sides))
    assert self_test(kernels._aligned_int_mm) is None or kernel("cpu").name != "int-mm"
    for left, right in asked:
        assert left.shape[0] > 16
        assert left.shape[1] % 8 == right.shape[1] % 8 == 0
        assert left.stride(1) == right.stride(0) == 1


def test_the_choice_is_made_once_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel("cpu") is kernel("cpu")
    monkeypatch.setattr(kernels, "_int_mm", saturating)
    fallen = kernel.__wrapped__("cpu")
    assert fallen.name == "float32"
    assert fallen.refused[0].startswith("int-mm: wrong numbers")


def test_long_products_are_exact_beyond_int32_and_wrap_where_asked() -> None:
    inner = MOST_INNER + 5000
    left, right = torch.full((2, inner), -128, dtype=torch.int8), torch.full((inner, 3), -128, dtype=torch.int8)
    assert true_matmul(left, right).unique().tolist() == [inner * 2**14]
    assert int8_matmul(left, right).unique().tolist() == [inner * 2**14 - 2**32]


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["SSE41", "AVX2", "AVX512_CORE"])
def test_a_process_held_below_vnni_is_still_exact(isa: str) -> None:
    """oneDNN held to older instructions saturates silently; the process must notice and fall back."""
    code = "from holdfast.shielding.kernels import kernel, self_test; k = kernel(); print(k.name, self_test(k.matmul))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[1] == "None"
