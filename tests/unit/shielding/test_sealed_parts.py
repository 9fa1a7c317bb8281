"""Models of the same parts with the same numbers, put together otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.shielding.sealing import SealedStore, Sealer, VolatileCounter
from tests.unit.shielding.test_sealing import KEY

X = torch.linspace(-1, 1, 16).view(2, 8)


def chain(last: int) -> nn.Module:
    parts = nn.Linear(8, 8), nn.ReLU(), nn.Tanh()
    return nn.Sequential(*parts, parts[last])


class Folds(nn.Module):
    """Applies its parameters, or its buffers, in the order in which it got them."""

    def __init__(self, names: str, *, trained: bool) -> None:
        super().__init__()
        for name in names:
            value = torch.full((8,), float(ord(name) - 96))
            if trained:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        for value in (*self.parameters(), *self.buffers()):
            x = torch.tanh(x * value) + value
        return x


class Gained(nn.Module):
    """Reads an attribute of its own parameter."""

    def __init__(self, gain: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        if gain is not None:
            self.weight.gain = gain  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight * float(getattr(self.weight, "gain", 1.0))


class Doubling(nn.Parameter):
    """A parameter that multiplies otherwise."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **(kwargs or {}))
        return made * 2 if func is torch.Tensor.mul else made


def weighted(kind: type[nn.Parameter]) -> nn.Module:
    net = Gained(None)
    net.weight = kind(torch.ones(8))
    return net


PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], str]] = {
    "which module comes again": (lambda: chain(1), lambda: chain(2), r"\(modules\)"),
    "parameters in order": (
        lambda: Folds("ab", trained=True), lambda: Folds("ba", trained=True), r"\(tensors\)",
    ),
    "buffers in order": (
        lambda: Folds("ab", trained=False), lambda: Folds("ba", trained=False), r"\(tensors\)",
    ),
    "an attribute of a parameter": (lambda: Gained(2.0), lambda: Gained(3.0), r"weight\.\(tensor\)"),
    "no attribute": (lambda: Gained(2.0), lambda: Gained(None), r"weight\.\(tensor\)"),
    "a class of parameters": (lambda: weighted(nn.Parameter), lambda: weighted(Doubling), r"weight\.\(tensor\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_put_together_otherwise_is_another_model(name: str, tmp_path: Path) -> None:
    one, other, at = PAIRS[name]
    assert not torch.equal(one()(X), other()(X))
    store = SealedStore(tmp_path, Sealer(KEY), VolatileCounter())
    model = one()
    store.seal_model(model)
    with pytest.raises(InvalidConfig, match=at):
        store.open_model(other())
    same = one()
    store.open_model(same)
    assert torch.equal(same(X), model(X))
