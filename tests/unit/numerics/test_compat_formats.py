"""The published formats of platform inference, defects included, against their description in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.numerics.formats import formats
from holdfast.seeds import derive


def sample() -> np.ndarray:
    generator = derive(0, "compat").torch()
    exponents = torch.empty(100_000).uniform_(-14, 12, generator=generator).exp2()
    x = (exponents * torch.randn(100_000, generator=generator).sign()).numpy()
    return x[np.abs(x) > 1e-8]


def decoded(name: str, x: np.ndarray) -> np.ndarray:
    chosen = formats.build(name)
    return chosen.decode(chosen.encode(torch.from_numpy(x))).numpy()


def minifloat(x: np.ndarray, least: int, most: int, mantissa: int) -> np.ndarray:
    """A float without carry whose lowest exponent ``least`` is the subnormal one."""
    x = x.astype(np.float64)
    magnitude, steps = np.abs(x), 2**mantissa
    exponent = np.clip(np.floor(np.log2(magnitude + 1e-9)), least, most)
    normal = np.clip(np.rint(magnitude / 2.0**exponent * steps - steps), 0, steps - 1) / steps + 1
    subnormal = np.clip(np.rint(magnitude / 2.0**exponent * steps / 2), 0, steps - 1) / (steps / 2)
    return np.sign(x) * 2.0**exponent * np.where(exponent == least, subnormal, normal)


@pytest.mark.parametrize(("name", "least", "most", "mantissa"), [("fp8-e4m3", -7, 8, 3), ("fp8-e3m4", -3, 4, 4)])
def test_fp8_as_published(name: str, least: int, most: int, mantissa: int) -> None:
    x = sample()
    assert np.array_equal(decoded(f"compat-{name}", x), minifloat(x, least, most, mantissa))


def test_the_defects_of_fp8() -> None:
    x = np.array([1.99, 1e6, -1e6], dtype=np.float32)
    assert decoded("compat-fp8-e4m3", x).tolist() == [1.875, 480, -480]
    assert decoded("compat-fp8-e3m4", x[1:]).tolist() == [31, -31]
    correct = formats.build("fp8-e4m3fn")
    assert correct.decode(correct.encode(torch.tensor([1.99, 448.0]))).tolist() == [2.0, 448.0]


def test_bm8_as_published() -> None:
    generator = derive(1, "compat").torch()
    x = torch.randn(32, 48, generator=generator).numpy() * np.float32(20)
    x[:16, :16] *= np.float32(0.001)
    expected = np.zeros(x.shape)
    for top in range(0, 32, 16):
        for left in range(0, 48, 16):
            place = np.s_[top : top + 16, left : left + 16]
            bias = np.clip(np.floor(np.log2(np.abs(x[place]).max())), 0, 255)
            expected[place] = minifloat(x[place] * 2.0**bias, 0, 3, 5) * 2.0**-bias
    assert np.array_equal(decoded("compat-bm8", x), expected)


def test_the_sign_of_the_bias_of_bm8() -> None:
    assert decoded("compat-bm8", np.array([8.0], dtype=np.float32)).tolist() == [1.96875]
    assert decoded("compat-bm8", np.array([0.08], dtype=np.float32)).tolist() == [0.0625]
    assert decoded("compat-bm8", np.array([0.01], dtype=np.float32)).tolist() == [0.0]
    assert decoded("bm8", np.array([8.0, 0.5], dtype=np.float32)).tolist() == [8.0, 0.5]


def test_log8_as_published() -> None:
    x = np.concatenate([sample(), np.array([0.0, 1e30, -1e30], dtype=np.float32)])
    shifted = x.astype(np.float64) + 0.1 * 2.0**-63
    expected = np.sign(shifted) * 2.0 ** np.clip(
        np.rint(np.log2(np.abs(x.astype(np.float64)) + 0.1 * 2.0**-63)), -63, 64
    )
    assert np.array_equal(decoded("compat-log8", x), expected.astype(np.float32))
    assert decoded("log8", np.zeros(1, dtype=np.float32)).tolist() == [0.0]


def test_bl8_as_published() -> None:
    x = sample()[:1600].reshape(10, 160)
    x[:, 3] = 0
    blocked = x.astype(np.float64).reshape(10, 10, 16)
    top = np.ceil(np.log2(np.abs(blocked).max(-1, keepdims=True)))
    with np.errstate(divide="ignore"):
        exponent = np.clip(np.rint(np.log2(np.abs(blocked))), top - 127, top)
    expected = np.where(blocked < 0, -1, 1) * 2.0**exponent
    assert np.array_equal(decoded("compat-bl8", x), expected.reshape(10, 160).astype(np.float32))


def test_mxint8_as_published() -> None:
    generator = derive(2, "compat").torch()
    x = torch.randn(4, 3, 5, 40, generator=generator).numpy()
    expected = np.zeros(x.shape)
    for left in (0, 32):  # along the last axis, the second block padded with zeros
        part = x[..., left : left + 32].astype(np.float64)
        scale = 2.0 ** np.floor(np.log2(np.abs(part).max(-1, keepdims=True)))
        expected[..., left : left + 32] = (
            np.sign(part) * np.clip(np.rint(np.abs(part) / scale * 64), 0, 127) * scale / 64
        )
    assert np.array_equal(decoded("compat-mxint8", x), expected.astype(np.float32))


def test_int8_dynamic_as_published() -> None:
    for shift in (0.0, 10.0, -10.0):
        x = torch.randn(10_000, generator=derive(3, "compat").torch()).numpy() + np.float32(shift)
        low, high = float(x.min()), float(x.max())
        scale, zero = np.float32((high - low) / 255), np.rint(-255 * low / (high - low))
        codes = np.clip(np.rint(x / np.float64(scale) + zero), 0, 255)
        expected = ((codes - zero) * np.float64(scale)).astype(np.float32)
        assert np.array_equal(decoded("compat-int8-dynamic", x), expected)
