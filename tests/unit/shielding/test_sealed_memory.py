"""Models whose tensors share memory: what one of them is written, the other one reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.shielding.sealing import SealedStore, Sealer, VolatileCounter
from holdfast.shielding.sealing.description import description
from holdfast.shielding.sealing.memory import sharing
from tests.unit.shielding.test_sealing import KEY

X = torch.linspace(-1, 1, 16).view(2, 8)


class Buffers(nn.Module):
    def __init__(self, p: Tensor, q: Tensor, *, kept: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("p", p)
        self.register_buffer("q", q, persistent=kept)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.p + self.q


def views(*, kept: bool = True) -> nn.Module:
    base = torch.zeros(12)
    return Buffers(base[:8], base[4:], kept=kept)


def layers(*, share: bool) -> nn.Module:
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    if share:
        net[1].weight.data = net[0].weight.data
    return net


def sealed(folder: Path, model: nn.Module) -> SealedStore:
    store = SealedStore(folder, Sealer(KEY), VolatileCounter())
    store.seal_model(model)
    return store


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in (*model.named_parameters(), *model.named_buffers())}


def is_refused(store: SealedStore, model: nn.Module, at: str) -> None:
    before = state_of(model)
    with pytest.raises(InvalidConfig, match=at):
        store.open_model(model)
    assert all(torch.equal(value, before[name]) for name, value in state_of(model).items())


@pytest.mark.parametrize(
    ("apart", "together", "at"),
    [
        (lambda: layers(share=False), lambda: layers(share=True), r"1\.weight\.\(same as\)"),
        (lambda: Buffers(torch.ones(8), torch.full((8,), 2.0)), views, r"q\.\(overlaps\)"),
        (lambda: Buffers(torch.ones(8), torch.zeros(8), kept=False), lambda: views(kept=False), r"q\.\(overlaps\)"),
    ],
    ids=["data", "views", "not kept"],
)
def test_what_was_sealed_apart_does_not_open_where_it_would_overwrite_itself(
    tmp_path: Path, apart: Callable[[], nn.Module], together: Callable[[], nn.Module], at: str
) -> None:
    is_refused(sealed(tmp_path / "apart", apart()), together(), at)
    is_refused(sealed(tmp_path / "together", together()), apart(), at)
    model, same = together(), together()
    sealed(tmp_path / "same", model).open_model(same)
    assert torch.equal(same(X), model(X))


def test_a_held_view_of_a_weight_changes_with_it_and_is_refused_then(tmp_path: Path) -> None:
    """Before opening both hold zeros; afterwards one of them would not."""

    def held(*, view: bool) -> nn.Module:
        model = Buffers(torch.zeros(8), torch.ones(8))
        model.held = model.p[:4] if view else torch.zeros(4)
        return model

    first = held(view=False)
    first.p.fill_(3.0)
    is_refused(sealed(tmp_path, first), held(view=True), "held")


def test_slices_of_one_memory_that_do_not_overlap_are_no_difference(tmp_path: Path) -> None:
    base = torch.arange(32.0).view(4, 8)
    sliced = {"a": base[:, :3], "b": base[:, 3:], "c": base.t()[1:2]}
    assert sharing({name: sliced[name] for name in "ab"}) == {}
    assert set(sharing(sliced)) == {"c.(overlaps)"}
    model, flat = Buffers(torch.ones(8), torch.full((8,), 2.0)), torch.zeros(16)
    other = Buffers(flat[:8], flat[8:])
    sealed(tmp_path, model).open_model(other)
    assert torch.equal(other(X), model(X))


@pytest.mark.parametrize("value", [torch.ones(1).expand(8), torch.arange(9.0).as_strided((2, 8), (1, 1))])
def test_a_tensor_that_overlaps_itself_is_refused_before_anything_changes(tmp_path: Path, value: Tensor) -> None:
    with pytest.raises(InvalidConfig, match="elements of 'q' share their memory"):
        sealed(tmp_path / "as it is", Buffers(torch.ones(8), value))
    store = sealed(tmp_path / "whole", Buffers(torch.ones(8), value.contiguous()))
    is_refused(store, Buffers(torch.ones(8), value), "elements of 'q' share their memory")


class Deaf(nn.Linear):
    """Says that it was loaded, and was not."""

    def _load_from_state_dict(self, *told: Any) -> None:
        return None


class Broken(nn.Linear):
    def _load_from_state_dict(self, *told: Any) -> None:
        raise RuntimeError("no room")


@pytest.mark.parametrize(("kind", "at"), [(Deaf, "differs from this one at '1.bias'"), (Broken, "no room")])
def test_a_model_that_does_not_take_what_is_read_is_as_it_was(tmp_path: Path, kind: type, at: str) -> None:
    store = sealed(tmp_path, nn.Sequential(nn.Linear(8, 8), kind(8, 8)))
    is_refused(store, nn.Sequential(nn.Linear(8, 8), kind(8, 8)), at)


def without_weight(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    del state["weight"]


def test_a_weight_that_no_state_dict_holds_is_part_of_the_description() -> None:
    def hiding(value: float) -> dict[str, str]:
        model = nn.Linear(2, 2)
        nn.init.constant_(model.weight, value)
        model.register_state_dict_post_hook(without_weight)
        return description(model)

    assert hiding(1.0) == hiding(1.0)
    assert hiding(1.0)["weight"] != hiding(2.0)["weight"]
    assert description(nn.Linear(2, 2)) == description(nn.Linear(2, 2))


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(3), lambda: nn.Linear(2, 2, device="meta")])
def test_what_has_no_values_is_not_sealed(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    with pytest.raises(InvalidConfig, match="without values in memory"):
        sealed(tmp_path, make())
