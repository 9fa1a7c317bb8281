"""The checks of a product on the device find the rows and columns that the reference finds, and no others."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from holdfast._kernels import device as devices
from holdfast.hardening.guards.checksum_linear import LinearCheck, wrong_columns
from holdfast.hardening.guards.checksum_sums import Sums
from holdfast.seeds import derive

ALARM = 1e-9


def product(dtype: torch.dtype, device: torch.device) -> tuple[nn.Linear, Tensor, Tensor]:
    generator = derive(4, "product").torch()
    layer = nn.Linear(300, 37).to(dtype)
    with torch.no_grad():
        for item in layer.parameters():
            item.copy_(torch.randn(item.shape, generator=generator) / 17)
        x = torch.randn(2, 13, 300, generator=generator).to(dtype)
        return layer.to(device), x.to(device), layer(x).contiguous().to(device)


def spoilt(output: Tensor, *places: tuple[int, int, float]) -> Tensor:
    changed = output.clone()
    for row, column, value in places:
        changed.view(-1, output.shape[-1])[row, column] = value
    return changed


CASES = {
    "clean": (),
    "one": ((5, 7, 40.0),),
    "two rows": ((0, 0, -30.0), (25, 36, 30.0)),
    "nan": ((3, 2, math.nan),),
    "infinity": ((24, 1, math.inf), (2, 1, 9.0)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("quick", [0.0, 0.02, 1e9])
def test_the_wrong_rows_are_the_reference_s(
    resident: torch.device, case: str, dtype: torch.dtype, quick: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x, output = product(dtype, resident)
    y = spoilt(output, *CASES[case])
    sums = Sums.of(layer.weight, layer.bias)
    check = LinearCheck(sums, layer.weight, layer.bias, ALARM, quick)
    found = check.wrong(x, y)
    monkeypatch.setattr(devices, "KINDS", [])
    devices.device_obstacle.cache_clear()
    expected = check.wrong(x, y)
    assert found.tolist() == expected.tolist()
    assert found.tolist() == sorted(row for row, _, value in CASES[case] if not abs(value) < quick)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_wrong_columns_are_the_reference_s(
    resident: torch.device, case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x, output = product(dtype, resident)
    y = spoilt(output, *CASES[case])
    found = wrong_columns(x, y, layer.weight, layer.bias, ALARM)
    monkeypatch.setattr(devices, "KINDS", [])
    devices.device_obstacle.cache_clear()
    assert found.tolist() == wrong_columns(x, y, layer.weight, layer.bias, ALARM).tolist()
    assert set(found.tolist()) == {place[1] for place in CASES[case]}


def test_sums_of_columns_are_those_of_fp64(resident: torch.device) -> None:
    from holdfast._kernels.checksums import column_sums

    matrix = torch.randn(1100, 45, generator=derive(1, "columns").torch())
    sums, squares = column_sums(matrix.to(resident))
    assert torch.allclose(sums.cpu(), matrix.double().sum(0), rtol=1e-13, atol=1e-11)
    assert torch.allclose(squares.cpu(), matrix.double().square().sum(0), rtol=1e-13, atol=0)
    none, nothing = column_sums(matrix[:0].to(resident))
    assert none.tolist() == nothing.tolist() == [0.0] * 45


def test_kernels_that_do_not_compile_leave_the_checks_to_torch(
    resident: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from triton.errors import TritonError

    from holdfast._kernels import checksums

    def fails(*_: object) -> Tensor:
        raise TritonError("out of resource: registers")

    layer, x, output = product(torch.float32, resident)
    y = spoilt(output, *CASES["one"])
    check = LinearCheck(Sums.of(layer.weight, layer.bias), layer.weight, layer.bias, ALARM)
    for name, call, expected in (
        ("wrong_rows", lambda: check.wrong(x, y), [5]),
        ("column_sums", lambda: wrong_columns(x, y, layer.weight, layer.bias, ALARM), [7]),
    ):
        monkeypatch.setattr(devices, "_refused", {})
        monkeypatch.setattr(checksums, name, fails)
        assert call().tolist() == expected
    assert caplog.text.count("the references are used from now on") == 2
