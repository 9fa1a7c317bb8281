"""Graphs in which one sample reaches another where no colour is: numbers and shapes that are read out of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.shielding.graph import IntegerModel, export
from holdfast.shielding.graph.leaves import Product
from holdfast.shielding.graph.program import Ref, Step
from holdfast.shielding.graph.separate import require_apart

X, N = Ref("x"), Ref("n")
SECRET = -12345.0  # who sends this is shown what leaks; random samples never do
INT64, FLOAT32 = {"dtype": torch.int64}, {"dtype": torch.float32}


def step(name: str, target: str, *args: Any, **keywords: Any) -> Step:
    return Step(name=name, target=target, args=args, keywords=keywords)


COUNT = (step("n", "aten.sym_size.int", X, 0), step("seq", "aten.arange.default", N))
BACKWARDS = (*COUNT, step("places", "aten.flip.default", Ref("seq"), [0]))
LARGEST = (
    step("all", "aten.amax.default", X, [0, 1]),
    step("whole", "aten.clamp.default", Ref("all"), 500, 1000),
    step("size", "aten._to_copy.default", Ref("whole"), **INT64),
)
WIDTH = step("leak", "aten.full.default", [1, 1], Ref("width"), **FLOAT32)
LEAKS: dict[str, tuple[Step, ...]] = {
    "place": (
        *BACKWARDS,
        step("picked", "python.getitem", X, Ref("places")),
        step("leak", "aten.add.Scalar", Ref("picked"), 0.0),
    ),
    "own place": (
        *COUNT,
        step("row", "aten.amax.default", X, [1]),
        step("none", "aten.mul.Scalar", Ref("row"), 0.0),
        step("first", "aten._to_copy.default", Ref("none"), **INT64),
        step("leak", "python.getitem", X, Ref("first")),
    ),
    "places in a tuple": (
        *BACKWARDS,
        step("picked", "python.getitem", X, (Ref("places"),)),
        step("leak", "aten.add.Scalar", Ref("picked"), 0.0),
    ),
    "shift": (step("leak", "aten.roll.default", X, [Ref("one")], [0]),),
    "start": (
        *COUNT,
        step("twice", "aten.cat.default", [X, X]),
        step("leak", "aten.narrow.Tensor", Ref("twice"), 0, Ref("one"), N),
    ),
    "size": (
        *LARGEST,
        step("made", "aten.full.default", [Ref("size")], 0.0),
        step("width", "aten.sym_size.int", Ref("made"), 0),
        WIDTH,
    ),
    "classes": (
        *LARGEST,
        step("made", "aten.one_hot.default", Ref("size")),
        step("width", "aten.sym_size.int", Ref("made"), 0),
        WIDTH,
    ),
    "divisor": (
        *LARGEST,
        step("image", "aten.view.default", X, [-1, 1, 1, 4]),
        step("pooled", "exact.average_pool", Ref("image"), [1, 1], divisor=Ref("size")),
        step("leak", "aten.view.default", Ref("pooled"), [-1, 4]),
    ),
    "mask": (
        step("large", "aten.ge.Scalar", X, 800.0),
        step("made", "aten.index.Tensor", X, [Ref("large")]),
        step("width", "aten.sym_size.int", Ref("made"), 0),
        WIDTH,
    ),
    "where": (
        step("large", "aten.ge.Scalar", X, 800.0),
        step("made", "aten.where.default", Ref("large")),
        step("some", "python.getitem", Ref("made"), 0),
        step("width", "aten.sym_size.int", Ref("some"), 0),
        WIDTH,
    ),
    "repeats": (
        step("large", "aten.ge.Scalar", X, 800.0),
        step("flat", "aten.reshape.default", Ref("large"), [-1]),
        step("often", "aten._to_copy.default", Ref("flat"), **INT64),
        step("made", "aten.repeat_interleave.Tensor", Ref("often")),
        step("width", "aten.sym_size.int", Ref("made"), 0),
        WIDTH,
    ),
    "product by a vector": (
        *COUNT,
        Step(name="sums", target="module", path="product", args=(X, Ref("vector"))),
        step("square", "aten.full.default", [N, N], 0.0, **FLOAT32),
        step("each", "aten.add.Tensor", Ref("square"), Ref("sums")),
        step("leak", "aten.amax.default", Ref("each"), [1], True),
    ),
}


def gated(name: str) -> IntegerModel:
    shown = (
        step("own", "aten.slice.Tensor", X, 1, 0, 1),
        step("asked", "aten.eq.Scalar", Ref("own"), SECRET),
        *LEAKS[name],
        step("out", "aten.where.self", Ref("asked"), Ref("leak"), X),
    )
    words = str([part.args for part in shown])
    constants = {"one": torch.tensor(1), "vector": torch.ones(4)}
    used = {key: value for key, value in constants.items() if f"Ref(name={key!r})" in words}
    modules = {"product": Product("product", (1e3, 1.0), 4)} if "product" in name else {}
    return IntegerModel(shown, modules, used, input="x", output="out", input_shape=(4,), top_code=127)


def batch(own: int, other: list[float]) -> Tensor:
    rows = [[SECRET, 1.0, 2.0, 3.0], [SECRET, 1.0, 2.0, 3.0]]
    rows[1 - own] = other
    return torch.tensor(rows)


@pytest.mark.parametrize("name", LEAKS)
def test_what_one_sample_tells_another_through_numbers_is_refused(name: str, tmp_path: Path) -> None:
    model = gated(name)
    assert any(
        not torch.equal(model(batch(own, [700.0, 6.0, 7.0, 8.0]))[own], model(batch(own, [900.0, 1.0, 9.0, 9.0]))[own])
        for own in (0, 1)
    )
    with pytest.raises(InvalidConfig, match="mixes the samples of batches of up to 4"):
        require_apart(model, 4)
    holdfast.save(model, tmp_path / "model")
    with pytest.raises(UnreadableArtifact, match=r"mixes the samples of a batch|does not compute"):
        IntegerModel.load(tmp_path / "model")


class Picks(nn.Module):
    """Indices, masks and classes that are the same whatever comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 6)
        self.register_buffer("order", torch.tensor([2, 0, 1, 5, 4, 3]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)[:, self.order]
        kind = nn.functional.one_hot((y > 0).long().sum(1) % 3, 3)
        return torch.cat((y.repeat_interleave(2, 1), kind.float(), torch.roll(y, 1, 1)), 1)


def test_what_is_the_same_for_every_sample_is_followed() -> None:
    model = export(Picks(), torch.rand(2, 8), torch.rand(16, 8))
    require_apart(model, 4)


class Last(nn.Module):
    """Reads the row of its own that it works out, as classifiers of texts do, in the two ways there are."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        length = (x[..., 0] > 0.5).sum(1).clamp(max=x.shape[1] - 1)
        picked = y[torch.arange(x.shape[0]), length]
        return picked + y.gather(1, length[:, None, None].expand(-1, 1, 6))[:, 0]


def test_a_sample_may_pick_among_its_own() -> None:
    x = torch.rand(16, 5, 8, generator=torch.Generator().manual_seed(3))
    model = export(Last(), x[:2], x)
    require_apart(model, 4)
    assert torch.equal(torch.cat([model(one) for one in x.split(1)]), model(x))
