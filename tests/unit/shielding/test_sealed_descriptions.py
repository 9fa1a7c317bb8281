"""What a sealed model is described by: two that compute something else never have one description."""

from __future__ import annotations

import functools
import io
import logging
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.shielding import int8_model
from holdfast.shielding.sealing import SealedStore, Sealer, VolatileCounter
from holdfast.shielding.sealing.description import description
from tests.unit.shielding.test_sealing import KEY

X = torch.linspace(-1, 1, 128).view(16, 8)


class Holder(nn.Module):
    """Computes with whatever it holds."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        held = self.held[0] if isinstance(self.held, list) else self.held
        return x * held.factor if hasattr(held, "factor") else held(x)


class Options:
    def __init__(self, factor: float) -> None:
        self.factor = factor


class Amplifier:
    def __init__(self, by: float) -> None:
        self.by = by

    def scaled(self, x: Tensor) -> Tensor:
        return x * self.by


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor


def closure(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * factor


def default(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x, by=factor: x * by


def bytecode(factor: float) -> Callable[[Tensor], Tensor]:
    return (lambda x: x * 1.0) if factor == 1 else (lambda x: x * 7.0)


def of_globals(factor: float) -> Callable[[Tensor], Tensor]:
    names: dict[str, Any] = {"FACTOR": factor}
    exec("scale = lambda x: x * FACTOR", names)  # as a module with another constant has it
    return names["scale"]


def method(factor: float) -> Callable[[Tensor], Tensor]:
    return Amplifier(factor).scaled


def wrapped(factor: float) -> Callable[[Tensor], Tensor]:
    return functools.partial(functools.lru_cache(closure(factor)))


def hidden(factor: float) -> list[nn.Module]:
    layer = nn.Linear(8, 8)
    nn.init.constant_(layer.weight, factor)
    nn.init.zeros_(layer.bias)
    return [layer]


def local_class(factor: float) -> nn.Module:
    class Scale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * factor

    return Scale()


def model(held: Any) -> nn.Module:
    torch.manual_seed(0)
    middle = held if isinstance(held, nn.Module) else Holder(held)
    return int8_model(nn.Sequential(nn.Linear(8, 8), middle, nn.Linear(8, 4)), X)


def sealed(folder: Path, net: nn.Module) -> SealedStore:
    store = SealedStore(folder, Sealer(KEY), VolatileCounter())
    store.seal_model(net)
    return store


def annotated(factor: float) -> Tensor:
    tensor = torch.zeros(2)
    tensor.factor = factor
    return tensor


class Table:
    """A class that is found by its name, with a value in it."""

    factor = 1.0


settings = types.ModuleType("settings")


def through_a_class(factor: float) -> Callable[[Tensor], Tensor]:
    Table.factor = factor
    return lambda x: x * Table.factor


def through_a_module(factor: float) -> Callable[[Tensor], Tensor]:
    settings.inner = types.ModuleType("settings.inner")
    settings.inner.values = [factor]
    return lambda x: x * settings.inner.values[0]


def through_another_name(factor: float) -> Callable[[Tensor], Tensor]:
    held = settings
    held.factor = factor
    return lambda x, where=held: x * getattr(where, "factor")  # noqa: B009


KINDS = [annotated, closure, default, bytecode, of_globals, method, wrapped, Options, Slotted, hidden, local_class]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_model_that_holds_another_value_is_refused_and_one_made_in_the_same_way_opens(
    tmp_path: Path, make: Callable[[float], Any]
) -> None:
    first, same, other = model(make(1.0)), model(make(1.0)), model(make(7.0))
    store, before = sealed(tmp_path, first), other(X)
    assert not torch.equal(first(X), before)
    with pytest.raises(InvalidConfig, match=r"differs from this one at '1\."):
        store.open_model(other)
    assert torch.equal(other(X), before)
    for value in same.state_dict().values():
        value.zero_()
    store.open_model(same)
    assert torch.equal(same(X), first(X))


def test_a_hook_with_another_factor_is_another_model(tmp_path: Path) -> None:
    def hooked(factor: float) -> nn.Module:
        net = model(nn.ReLU())
        net[1].register_forward_hook(lambda module, inputs, output: output * factor)
        return net

    store = sealed(tmp_path, hooked(1.0))
    store.open_model(hooked(1.0))
    with pytest.raises(InvalidConfig, match=r"differs from this one at '1\.\(forward_hooks\)'"):
        store.open_model(hooked(3.0))


def generator() -> Any:
    yield 1


def unreadable() -> Any:
    secret = generator()
    return lambda x: x * next(secret)


def deep(kind: Callable[[Any], Any]) -> Any:
    nested: Any = kind([])
    for _ in range(2000):
        nested = kind([nested])
    return nested


def wide() -> Any:
    nested: Any = ()
    for _ in range(50):  # 2**50 tuples to walk over
        nested = (nested, nested)
    return nested


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "at"),
    [
        (generator, "1.held"),
        (lambda: {"rows": io.TextIOWrapper(io.BytesIO())}, "1.held['rows']"),
        (unreadable, "1.held.captured['secret']"),
        (lambda: deep(list), "1.held[0]"),
        (lambda: deep(tuple), "1.held[0]"),
        (wide, "1.held[0]"),
        (lambda: torch.jit.script(nn.ReLU()), "1.held"),
    ],
    ids=["generator", "file", "captured", "deep", "deep-tuple", "wide", "script"],
)
def test_what_cannot_be_described_is_named_and_refused_before_anything_is_written(
    tmp_path: Path, make: Callable[[], Any], at: str
) -> None:
    store, net = SealedStore(tmp_path, Sealer(KEY), VolatileCounter()), nn.Sequential(nn.ReLU(), Holder(make()))
    with pytest.raises(InvalidConfig) as refused:
        store.seal_model(net)
    assert at in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_what_holds_itself_and_what_computes_nothing_is_described() -> None:
    def told() -> dict[str, str]:
        options: Any = Options(1.0)
        options.itself, options.all, options.lock = options, [options], threading.Lock()
        options.log = logging.getLogger("tests")
        net = Holder(options)
        options.owner = net
        return description(net)

    assert told() == told()
    assert "module ''" in told()["held"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(4, 4, 2),
        lambda: nn.TransformerEncoderLayer(8, 2, activation=nn.functional.gelu),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU())),
        lambda: Holder(functools.partial(torch.clamp, max=2)),
        lambda: Holder(torch.relu),
        lambda: Holder({1, "a", None, 2.5, b"c"}),
        lambda: Holder(nn.functional.max_pool2d),
    ],
    ids=["lstm", "encoder", "parametrized", "traced", "partial", "operator", "set", "dispatched"],
)
def test_a_description_does_not_depend_on_the_weights(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    first, second = make(), make()
    assert description(first) == description(second)
    sealed(tmp_path, first).open_model(second)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_one_tensor_under_two_names_is_not_two_tensors() -> None:
    def tied(tie: bool) -> dict[str, str]:
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        net[1].weight = net[0].weight if tie else net[1].weight
        return description(net)

    assert tied(True) != tied(False)
    assert tied(True)["1.weight.(same as)"] == "0.weight"


class Working:
    """Works something out of what it holds, and keeps it."""

    def __init__(self) -> None:
        self.by = 2.0

    @functools.cached_property
    def factor(self) -> float:
        return self.by + 1

    @functools.cached_property
    def back(self) -> list[Any]:
        return [self]


def overwritten(number: int) -> Working:
    working = Working()
    working.factor = 3.0 * number
    return working


def with_fields(order: int) -> np.ndarray:
    return np.zeros(2, dtype=[(name, "i4") for name in ("ab", "ba")[order - 1]])


def of_another_class(number: int) -> Any:
    class Making(type):
        def __call__(cls) -> Any:
            made = super().__call__()
            made.factor = number
            return made

    class Made(metaclass=Making):
        pass

    return Made


def trained(number: int) -> list[nn.Module]:
    return [nn.Dropout(0.5).train(number == 1)]


def hooked(number: int) -> list[nn.Module]:
    module = nn.Identity()
    module.register_forward_hook(lambda *told: told[-1] * number)
    return [module]


@pytest.mark.parametrize(
    "make",
    [
        lambda number: np.arange(4.0).reshape(2, 2).view((np.ndarray, np.matrix)[number - 1]),
        lambda number: np.ma.MaskedArray([1, 2], mask=[number == 1, number == 2]),
        with_fields,
        lambda number: np.zeros(2, dtype=np.dtype("O" if number == 1 else [("a", "O")])),
        lambda number: np.asarray(np.arange(4.0).reshape(2, 2), order="FC"[number - 1]),
        overwritten,
        of_another_class,
        trained,
        hooked,
    ],
    ids=["matrix", "mask", "fields", "objects", "order", "cached", "metaclass", "training", "hook"],
)
def test_what_looks_alike_and_computes_otherwise_is_another_model(make: Callable[[int], Any]) -> None:
    told = [description(Holder(make(number))) for number in (1, 1, 2)]
    assert told[0] == told[1]
    assert told[0] != told[2]


def test_what_is_worked_out_and_kept_is_no_difference() -> None:
    asked = Working()
    assert (asked.factor, asked.back) == (3.0, [asked])
    assert description(Holder(asked)) == description(Holder(Working()))


def test_a_model_that_trains_is_another_model(tmp_path: Path) -> None:
    store = sealed(tmp_path, nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).eval())
    with pytest.raises(InvalidConfig, match=r"at '(\d\.)?training'"):
        store.open_model(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)))


@pytest.mark.parametrize(
    "make", [through_a_class, through_a_module, through_another_name], ids=lambda make: make.__name__
)
def test_a_value_that_a_function_reads_through_a_module_or_a_class_is_described(
    make: Callable[[float], Callable[[Tensor], Tensor]],
) -> None:
    told = [description(Holder(make(factor))) for factor in (1.0, 1.0, 7.0)]
    assert told[0] == told[1]
    assert told[0] != told[2]


def test_a_function_that_uses_libraries_is_described() -> None:
    def told() -> dict[str, str]:
        return description(Holder(lambda x: torch.relu(x) * np.pi + nn.functional.gelu(x).to(torch.float32)))

    assert told() == told()
