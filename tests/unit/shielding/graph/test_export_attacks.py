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
    ("made", "kind"), [(lambda y: {"y": y}, "dict"), (lambda y: (y,), "tuple"), (lambda y: [y], "list")]
)
def test_a_model_that_returns_something_around_its_tensor_is_refused(made: Callable[[Tensor], Any], kind: str) -> None:
    with pytest.raises(InvalidConfig, match=f"returns a {kind}, not one tensor"):
        export(Returning(made), X[:1], X)


def test_scores_are_read_out_of_what_libraries_put_around_them() -> None:
    model = Returning(lambda y: y)
    plain = export(model, X[:1], X)(X)
    model.made = lambda y: {"out": y}
    assert torch.equal(export(model, X[:1], X)(X), plain)
    with pytest.raises(InvalidConfig, match="one input and one output"):
        export(Returning(lambda y: {"out": y, "aux": 2 * y}), X[:1], X)


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


class Decided(nn.Module):
    """A layer whose output something is made of, together with the input."""

    def __init__(self, made: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.made = nn.Linear(8, 4), made
        self.register_buffer("calls", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.made(self.layer(x), x)


BRANCHES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "below five": lambda y, x: y if x.shape[0] < 5 else -y,
    "from three": lambda y, x: y if x.shape[0] < 3 else -y,
    "even": lambda y, x: y if x.shape[0] % 2 == 0 else -y,
    "but seven": lambda y, x: y if x.shape[0] != 7 else -y,
    "below many": lambda y, x: y if y.shape[0] < 100_000 else -y,
    "of elements": lambda y, x: y if y.numel() < 100 else -y,
}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_on_the_size_of_a_batch_is_refused(name: str) -> None:
    with pytest.raises(InvalidConfig, match=r"traced for batches with|only takes batches of 2") as caught:
        export(Decided(BRANCHES[name]), X[:1], X)
    assert "size of dimension 0" in caught.value.hint


def test_a_branch_on_a_batch_of_one_is_refused() -> None:
    """Which torch.export does not note: it takes every batch for one of two or more."""
    with pytest.raises(InvalidConfig, match="with one sample, computes something else"):
        export(Decided(lambda y, x: y if x.shape[0] > 1 else -y), X[:1], X)


def test_what_python_draws_or_reads_off_a_clock_is_refused() -> None:
    ticks = iter(range(1, 1000))
    with pytest.raises(InvalidConfig, match="computes something else than what was traced"):
        export(Decided(lambda y, x: y * next(ticks)), X[:1], X)


RANDOM: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "randn": lambda y, x: y + torch.randn(4),
    "randint": lambda y, x: y + torch.randint(0, 9, (4,)),
    "randperm": lambda y, x: y[:, torch.randperm(4)],
    "bernoulli": lambda y, x: y * torch.bernoulli(torch.full((4,), 0.5)),
    "dropout of a constant": lambda y, x: y * nn.functional.dropout(torch.ones(4), 0.5),
    "randn_like": lambda y, x: y + torch.randn_like(y),
    "dropout": lambda y, x: nn.functional.dropout(y, 0.5),
    "uniform": lambda y, x: y + torch.zeros(4).uniform_(),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_refused_and_none_is_drawn(name: str) -> None:
    model, state = Decided(RANDOM[name]), torch.get_rng_state()
    with pytest.raises(InvalidConfig, match="draws random numbers"):
        export(model, X[:1], X)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_that_is_switched_off_draws_nothing() -> None:
    def off(y: Tensor, x: Tensor) -> Tensor:
        kept = nn.functional.scaled_dot_product_attention(torch.ones(1, 2, 4), torch.ones(1, 3, 4), torch.ones(1, 3, 4))
        return nn.functional.dropout(y, 0.5, training=False) + kept[0, 0]

    model = Decided(off)
    assert (export(model, X[:1], X)(X) - model(X)).norm() < 0.06 * model(X).norm()


def written(y: Tensor, x: Tensor) -> Tensor:
    made = torch.empty(4)
    made[:2], made[2:] = 1.0, 2.0
    return y + made


def test_memory_that_nobody_wrote_is_refused() -> None:
    model = Decided(written)
    assert (export(model, X[:1], X)(X) - model(X)).norm() < 0.06 * model(X).norm()
    with pytest.raises(InvalidConfig, match="memory that nobody has written"):
        export(Decided(lambda y, x: y + torch.empty(4)), X[:1], X)
    with pytest.raises(InvalidConfig, match="memory that nobody has written"):
        export(Decided(lambda y, x: y + torch.empty(4)[1:].abs().sum()), X[:1], X)


class Counting(Decided):
    """Counts its calls."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1.0
        return self.layer(x) * self.calls  # type: ignore[no-any-return]


def test_a_model_that_changes_itself_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="own buffer 'calls'"):
        export(Counting(lambda y, x: y), X[:1], X)


WHOLE = torch.zeros(4, 8, dtype=torch.int64)


@pytest.mark.parametrize(
    ("example", "data", "message"),
    [
        (WHOLE[:1], WHOLE, "does not take the example's first sample alone"),
        (X[:1], WHOLE, "does not take a calibration batch of torch.int64"),
        (X[:1], [X, "text"], "a calibration batch is a str"),
        (X[:1], X * float("nan"), "not finite in calibration"),
        (X[:1].numpy(), X, "the example is ndarray"),
        (X[0, 0], X, r"the example is torch.float32 \(\)"),
        (X[:0], X, r"the example is torch.float32 \(0, 8\)"),
        (X[:1].to(torch.complex64), X, "the example is torch.complex64"),
    ],
    ids=["tokens", "other type", "no tensor", "NaN", "numpy", "one number", "empty", "complex"],
)
def test_examples_and_calibration_of_another_kind_are_one_clear_error(example: Any, data: Any, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message) as caught:
        export(nn.Sequential(nn.Linear(8, 4)), example, data)
    assert caught.value.hint
    assert not any(word in str(caught.value) for word in ("While executing", "class GraphModule", "\n"))


def test_tokens_out_of_the_vocabulary_are_one_clear_error() -> None:
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4))
    tokens = torch.ones(4, 3, dtype=torch.int64)
    with pytest.raises(InvalidConfig, match=r"calibration batch of torch.int64: index out of range"):
        export(model, tokens[:1], 99 * tokens)
    with pytest.raises(InvalidConfig, match=r"first sample alone: index out of range"):
        export(model, 99 * tokens[:1], tokens)


def test_a_normalisation_over_the_batch_is_one_clear_error() -> None:
    model = Returning(lambda y: nn.functional.layer_norm(y, y.shape))
    with pytest.raises(InvalidConfig, match="mixes the samples of a batch"):
        export(model.eval(), X[:2], X)
