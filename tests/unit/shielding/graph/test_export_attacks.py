"""Models that are named, return or are calibrated in ways that once crashed an export, or went through unseen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.shielding.graph import IntegerModel, export

X = torch.rand(16, 8, generator=torch.Generator().manual_seed(0))


class Named(nn.Module):
    """Two linear layers, one under a name of the caller's, and a norm that leaves constants."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.a, self.norm, self.name = nn.Linear(8, 8), nn.BatchNorm1d(8), name
        self.add_module(name, nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self._modules[self.name](self.norm(torch.relu(self.a(x))))  # type: ignore[misc,no-any-return]


class Nested(nn.Linear):
    """A layer with a layer below it that is called as an integer layer calls its weights."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.codes = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.codes(torch.relu(super().forward(x)))  # type: ignore[no-any-return]


class Returning(nn.Module):
    """A layer whose output is wrapped by ``made``."""

    def __init__(self, made: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.made = nn.Linear(8, 8), made

    def forward(self, x: Tensor) -> Any:
        return self.made(self.layer(x))


@pytest.mark.parametrize(
    "name", ["output", "input", "steps", "bounds", "top_code", "_constants", "_spent", "constant_norm__slope"]
)
def test_a_module_may_have_any_name(name: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = Named(name).eval()
    integer = export(model, X[:1], X)
    assert set(integer.bounds()) == {"a", f"{name}_"}
    assert (integer(X) - model(X)).norm() < 0.06 * model(X).norm()
    integer.save(tmp_path / "saved")
    assert torch.equal(IntegerModel.load(tmp_path / "saved")(X), integer(X))


def test_a_module_below_a_layer_may_have_the_name_of_the_layers_weights(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Nested()).eval()
    integer = export(model, X[:1], X)
    assert set(integer.bounds()) == {"0", "0_.codes"}
    assert (integer(X) - model(X)).norm() < 0.06 * model(X).norm()
    integer.save(tmp_path / "saved")
    assert torch.equal(IntegerModel.load(tmp_path / "saved")(X), integer(X))


@pytest.mark.parametrize(
    ("made", "kind"), [(lambda y: {"out": y}, "dict"), (lambda y: (y,), "tuple"), (lambda y: [y], "list")]
)
def test_a_model_that_returns_something_around_its_tensor_is_refused(made: Callable[[Tensor], Any], kind: str) -> None:
    with pytest.raises(InvalidConfig, match=f"returns a {kind}, not one tensor"):
        export(Returning(made), X[:1], X)


@pytest.mark.parametrize("shape", [(16, 9), (16,), (16, 1, 8), ()])
def test_calibration_of_another_shape_is_one_clear_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidConfig, match=r"a calibration sample is .*, but the example is 8"):
        export(nn.Linear(8, 8), X[:1], torch.rand(shape))


def test_a_refused_model_is_one_clear_error_and_not_its_graph_on_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(InvalidConfig, match=r"torch\.export stops"):
        export(Returning(lambda y: y if y.sum() > 0 else -y), X[:1], X)
    assert capfd.readouterr() == ("", "")


class Halved(nn.Module):
    """Converts its input, as models in half precision do."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.dtype = nn.Linear(4, 4), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(self.dtype))  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_that_computes_in_half_precision_is_refused(dtype: torch.dtype) -> None:
    x = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InvalidConfig, match=r"computes in b?float16, and integer models in float32") as caught:
        export(Halved(dtype).to(dtype), x[:1], x)
    assert "model.float()" in (caught.value.hint or "")
