"""Which results of an operation are values that a path may depend on."""

from __future__ import annotations

import torch

from holdfast.execution.engines.suffix.recorder import _reads_a_value

aten = torch.ops.aten


def test_lengths_that_attention_returns_are_no_values() -> None:
    output = torch.zeros(2)
    flash = aten._scaled_dot_product_flash_attention.default
    assert not _reads_a_value(flash, [output, output, None, None, 197, 197, output, output, None])
    assert not _reads_a_value(aten.native_layer_norm.default, [output, output, None])
    assert _reads_a_value(aten._local_scalar_dense.default, [3])
    assert _reads_a_value(aten.equal.default, [True])
    assert _reads_a_value(flash, [output, 0.5])
