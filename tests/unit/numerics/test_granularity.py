"""Which elements share a parameter, counted one element at a time."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.numerics.granularity import Granularity, rows_and_columns
from holdfast.seeds import derive

SHAPES = [(), (1,), (7,), (3, 4), (5, 2, 3), (4, 3, 2, 2), (33, 17)]
SIZES = itertools.product(("group", "tile"), (1, 2, 5, 16), ("row", "last"))
KINDS = [*itertools.starmap(Granularity, SIZES), Granularity("tensor"), Granularity("channel")]


def part(sharing: Granularity, position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return which parameter the element at flat ``position`` has, by division of its indices."""
    if sharing.kind == "tensor" or (sharing.kind == "channel" and len(shape) < 2):
        return ()
    total = math.prod(shape)
    if sharing.kind == "channel":
        return (position // (total // shape[0]),) + (0,) * (len(shape) - 1)
    columns = (
        (shape[-1] if shape else 1) if sharing.along == "last" else (total // shape[0] if len(shape) > 1 else total)
    )
    row, column = divmod(position, columns)
    return (row // sharing.size if sharing.kind == "tile" else row, column // sharing.size)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sharing", KINDS, ids=str)
def test_extremes_spread_and_at_agree_with_the_count(sharing: Granularity, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=derive(0, "granularity").torch())
    members: dict[tuple[int, ...], list[float]] = {}
    for position, value in enumerate(x.reshape(-1).tolist()):
        members.setdefault(part(sharing, position, shape), []).append(value)
    least, most = sharing.extremes(x)
    assert tuple(least.shape) == tuple(most.shape) == sharing.shape(shape)
    assert len(members) == least.numel()
    for place, values in members.items():
        assert (least[place].item(), most[place].item()) == (min(values), max(values))
    number = torch.arange(least.numel()).view(least.shape)
    spread = sharing.spread(number, shape).expand(shape).reshape(-1)
    index = torch.arange(x.numel()).flip(0)
    assert spread.tolist() == [number[part(sharing, position, shape)].item() for position in range(x.numel())]
    assert sharing.at(number, index, shape).expand(x.numel()).tolist() == spread.flip(0).tolist()


@pytest.mark.parametrize("sharing", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_nothing_has_parameters_of_zero(sharing: Granularity, shape: tuple[int, ...]) -> None:
    least, most = sharing.extremes(torch.zeros(shape))
    assert not least.any()
    assert tuple(most.shape) == sharing.shape(shape)
    assert sharing.spread(least, shape).expand(shape).shape == shape


def test_rows() -> None:
    assert rows_and_columns((4, 3, 2, 2)) == (4, 12)
    assert rows_and_columns((4, 3, 2, 2), "last") == (24, 2)
    assert rows_and_columns((5,)) == rows_and_columns((5,), "last") == (1, 5)


def test_bad_arguments() -> None:
    with pytest.raises(InvalidConfig, match="no granularity 'row'"):
        Granularity("row")
    with pytest.raises(InvalidConfig, match="no groups along 'column'"):
        Granularity("group", 4, "column")
    with pytest.raises(InvalidConfig, match="at least one element"):
        Granularity("tile", 0)
