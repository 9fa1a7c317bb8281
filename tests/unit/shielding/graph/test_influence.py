"""What colours say of a value is true of its numbers: what has not the colour of a sample does not change with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from holdfast.shielding.graph.colours import COLOURS, blank, coloured, is_apart, is_mixed, joined
from holdfast.shielding.graph.influence import Influence
from holdfast.shielding.graph.operations import ARITHMETIC, MOVES, WHOLE, function
from holdfast.shielding.graph.program import IntegerModel, Ref, Step, _bound
from tests.unit.shielding.graph.nets import NETS
from tests.unit.shielding.graph.test_export import exported

BATCH = 3
X, Y = Ref("x"), Ref("y")
INDEX, TABLE = Ref("index"), Ref("table")
CONSTANTS = {
    "index": torch.tensor([2, 0, 1]),
    "table": torch.arange(40).view(20, 2),
}
STEPS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("aten.view.default", (X, [6, 2]), {}),
    ("aten.permute.default", (X, [1, 0, 2]), {}),
    ("aten.transpose.int", (X, 0, 2), {}),
    ("aten.cat.default", ([X, Y], 0), {}),
    ("aten.stack.default", ([X, Y], 1), {}),
    ("aten.roll.default", (X, [1], [0]), {}),
    ("aten.roll.default", (X, [1]), {"dims": [1]}),
    ("aten.flip.default", (X, [0]), {}),
    ("aten.expand.default", (X, [2, 3, 2, 2]), {}),
    ("aten.repeat.default", (X, [2, 1, 1]), {}),
    ("aten.repeat_interleave.self_int", (X, 2, 0), {}),
    ("aten.constant_pad_nd.default", (X, [1, 0, 0, 1, 1, 0], 5), {}),
    ("aten.pad.default", (X, [1, 0], "replicate"), {}),
    ("aten.pad.default", (X, [1, 0]), {"mode": "circular"}),
    ("aten.pad.default", (X, [1, 0]), {"value": 7}),
    ("aten.slice.Tensor", (X, 0, 1), {}),
    ("aten.select.int", (X, 0, 1), {}),
    ("aten.diagonal.default", (X, 0, 0, 1), {}),
    ("aten.tril.default", (X,), {}),
    ("aten.unbind.int", (X, 0), {}),
    ("aten.split.Tensor", (X, 2, 0), {}),
    ("aten.index.Tensor", (X, [INDEX]), {}),
    ("aten.index.Tensor", (TABLE, [X]), {}),
    ("aten.index.Tensor", (X, [None, Ref("small")]), {}),
    ("aten.index.Tensor", (X,), {"indices": [Ref("small")]}),
    ("aten.index.Tensor", (X, [INDEX, Ref("pick")]), {}),
    ("aten.index.Tensor", (X, [INDEX, None, Ref("pick")]), {}),
    ("aten.index.Tensor", (X, [None, Ref("pick"), Ref("odd")]), {}),
    ("aten.index.Tensor", (X, [None, None, Ref("pick")]), {}),
    ("aten.index.Tensor", (Y, [Ref("pick"), Ref("odd")]), {}),
    ("aten.index.Tensor", (Ref("image"), [None, Ref("none"), None, Ref("pick")]), {}),
    ("aten.gather.default", (TABLE, 0, Ref("pair")), {}),
    ("aten.index_select.default", (X, 0, INDEX), {}),
    ("aten.gather.default", (X, 0, Ref("flat")), {}),
    ("aten.gather.default", (X, 0), {"index": Ref("small")}),
    ("aten.gather.default", (Y, 1, Ref("small")), {}),
    ("aten.embedding.default", (TABLE, X), {}),
    ("aten.one_hot.default", (X, 20), {}),
    ("aten.add.Tensor", (X, Y), {}),
    ("aten.add.Tensor", (X,), {"other": Y}),
    ("aten.maximum.default", (X, Ref("single")), {}),
    ("aten.where.self", (Ref("mask"), X, Y), {}),
    ("aten.masked_fill.Scalar", (X, Ref("mask"), 0), {}),
    ("aten.clamp.Tensor", (X,), {"min": Y}),
    ("aten.amax.default", (X, [0]), {}),
    ("aten.amax.default", (X,), {"dim": [-1], "keepdim": True}),
    ("aten.amin.default", (X,), {}),
    ("aten.max.default", (X,), {}),
    ("aten.max.dim", (X, 0), {}),
    ("aten.max.dim", (X,), {"dim": 1}),
    ("aten.max.other", (X, Y), {}),
    ("aten.max.other", (X,), {"other": Y}),
    ("aten.sum.dim_IntList", (X, [1, 2]), {}),
    ("aten.sum.default", (X,), {}),
    ("aten.cumsum.default", (X, 0), {}),
    ("aten.sort.default", (X,), {"dim": 0}),
    ("aten.sort.stable", (X,), {"stable": True}),
    ("aten.topk.default", (X, 1, 0), {}),
    ("aten.argmax.default", (X, 0), {}),
    ("aten.any.dim", (X, 1), {}),
    ("aten.count_nonzero.default", (X,), {}),
    ("aten.diff.default", (X,), {}),
    ("aten.diff.default", (X, 1, 0), {"prepend": Y}),
    ("aten.isin.Tensor_Tensor", (X, Y), {}),
    ("aten.scatter.src", (X, 0, Ref("flat"), Y), {}),
    ("aten.index_put.default", (X, [INDEX], Y), {}),
    ("aten.take.default", (X, Ref("flat")), {}),
    ("aten.full_like.default", (X, 4), {}),
    ("aten.type_as.default", (X, Y), {}),
    ("aten.expand_as.default", (X, Y), {}),
    ("aten.flatten.using_ints", (X,), {}),
    ("aten.tile.default", (X, [2, 2]), {}),
    ("aten.pow.Tensor_Scalar", (X, 2), {}),
    ("exact.total", (X, (0,)), {}),
    ("exact.mean", (X,), {"dims": (1, 2), "keepdim": True}),
    ("exact.layer_norm", (X, (2,)), {}),
    ("exact.layer_norm", (X, (2,)), {"weight": Ref("row")}),
    ("exact.group_norm", (X, 2), {}),
    ("exact.group_norm", (Ref("wide"), 1, Ref("row")), {}),
    ("exact.scaled", (X, Y, None), {}),
    ("exact.average_pool", (Ref("image"), [2, 2]), {}),
    ("python.getitem", (X, 1), {}),
    ("python.add", (X, Y), {}),
]  # fmt: skip


def world(x: Tensor) -> dict[str, Any]:
    return {
        **CONSTANTS,
        "x": x, "y": x.flip(0) + x.amax(0), "flat": torch.tensor([[[1, 0]], [[2, 2]]]),
        "odd": CONSTANTS["index"] % 2, "pick": x[:, 0, 0].long() % 2,
        "none": CONSTANTS["index"] * 0, "pair": x[:, 0].long() % 2,
        "single": x[:1], "mask": x > 5, "row": x[1, 0].float(), "small": x.long() % 2,
        "image": x[:, None].float(), "wide": x.reshape(BATCH, 2, 2, 1).float(),
    }  # fmt: skip


def colours_of(x: Tensor) -> dict[str, Any]:
    own = coloured(x)
    joint = joined(own, [0])
    return {
        **{name: blank(value) for name, value in CONSTANTS.items()},
        "x": own, "y": own.flip(0) | joint, "flat": blank(torch.zeros(2, 1, 2)),
        "odd": blank(CONSTANTS["index"]), "pick": own[:, 0, 0],
        "none": blank(CONSTANTS["index"]), "pair": own[:, 0],
        "single": own[:1], "mask": own, "row": own[1, 0], "small": own, "image": own[:, None],
        "wide": own.reshape(BATCH, 2, 2, 1),
    }  # fmt: skip


def changed(one: Any, other: Any) -> list[Tensor]:
    left, right = tree_leaves(one), tree_leaves(other)
    return [a != b for a, b in zip(left, right, strict=True) if isinstance(a, Tensor)]


@pytest.mark.parametrize("case", range(len(STEPS)), ids=[f"{n}-{s[0]}" for n, s in enumerate(STEPS)])
def test_an_element_without_a_samples_colour_does_not_change_with_it(case: int) -> None:
    target, args, keywords = STEPS[case]
    step = Step(name="z", target=target, args=args, keywords=keywords)
    generator = torch.Generator().manual_seed(case)
    x = torch.randint(0, 9, (BATCH, 2, 2), generator=generator)
    x = x.float() if target.startswith("exact") else x

    def values(of: Tensor) -> Any:
        named = world(of)
        real = _bound(args, named)
        return real, function(target)(*real, **{key: _bound(value, named) for key, value in keywords.items()})

    real, value = values(x)
    tints = colours_of(x)
    found = Influence(lambda path: torch.nn.Identity()).after(
        step, real, _bound(args, tints), {key: _bound(part, tints) for key, part in keywords.items()}, value
    )
    shapes = [part.shape for part in tree_leaves(value) if isinstance(part, Tensor)]
    colours = [part for part in tree_leaves(found) if isinstance(part, Tensor)]
    assert [part.shape for part in colours] == shapes
    for sample in range(BATCH):
        for _ in range(8):
            other = x.clone()
            other[sample] = torch.randint(0, 9, (2, 2), generator=generator).to(x.dtype)
            for moved, colour in zip(changed(value, values(other)[1]), colours, strict=True):
                assert bool(((colour & COLOURS[sample]) == COLOURS[sample])[moved].all())


@pytest.mark.parametrize(
    ("target", "args", "apart"),
    [
        ("aten.index.Tensor", (X, [Ref("lucky")]), False),
        ("aten.index.Tensor", (X, [INDEX, Ref("pick")]), False),
        ("aten.index.Tensor", (X, [Ref("rows"), Ref("pick")]), True),
        ("aten.gather.default", (X, 0, Ref("own")), False),
        ("aten.gather.default", (X, 1, Ref("small")), True),
    ],
)
def test_what_an_index_of_a_sample_may_pick_is_what_lies_along_it(
    target: str, args: tuple[Any, ...], apart: bool
) -> None:
    x, rows = torch.zeros(BATCH, 2, 2, dtype=torch.int64), torch.arange(BATCH)
    own = coloured(x)
    named = {**world(x), "rows": rows, "lucky": rows, "own": rows.view(-1, 1, 1).expand_as(x)}  # each happens on itself
    tints = {**colours_of(x), "rows": blank(rows), "lucky": own[:, 0, 0], "own": own}
    step, real = Step(name="z", target=target, args=args), _bound(args, named)
    found = Influence(lambda path: torch.nn.Identity()).after(
        step, real, _bound(args, tints), {}, function(target)(*real)
    )
    assert is_apart(found, BATCH) == apart


def test_every_operation_has_a_rule_or_the_worst_is_said_of_it() -> None:
    x = torch.arange(6).view(3, 2)
    step = Step(name="z", target="aten.cumprod.unheard", args=(X,))
    found = Influence(lambda path: torch.nn.Identity()).after(step, (x,), (coloured(x),), {}, x)
    assert is_mixed(found)
    assert {"roll", "add", "sort"} <= MOVES | ARITHMETIC | WHOLE


def test_a_norm_with_weights_for_channels_joins_the_channels_of_a_sample_alone() -> None:
    x, weight = torch.randn(3, 4, 5, 6), torch.ones(4)
    step = Step(name="z", target="exact.group_norm", args=(X, 2, Ref("w"), Ref("w")))
    found = Influence(lambda path: torch.nn.Identity()).after(
        step, (x, 2, weight, weight), (coloured(x), 2, blank(weight), blank(weight)), {}, x
    )
    assert is_apart(found, 3)


def test_colours_tell_one_sample_from_several() -> None:
    assert len(set(COLOURS)) == 70
    assert all((a | b).bit_count() > 4 for a in COLOURS for b in COLOURS if a != b)
    own = coloured(torch.zeros(70, 2))
    assert is_apart(own, 70)
    assert not is_apart(own.flip(0), 70)
    assert not is_mixed(own)
    assert is_mixed(own | own.roll(1, 0))
    assert int(joined(own[:2], (0, 1))) == COLOURS[0] | COLOURS[1]
    with pytest.raises(ValueError, match="70 colours, and 71"):
        coloured(torch.zeros(71, 1))


@pytest.mark.parametrize("name", NETS)
def test_networks_of_these_tests_follow_their_numbers(name: str) -> None:
    """No step of an honest network gets by on the rule for the worst, which would refuse it."""
    model: IntegerModel = exported(name)[1]
    batch = torch.randn(3, *model.input_shape) if model.input_dtype.is_floating_point else torch.ones(
        3, *model.input_shape, dtype=torch.int64)  # fmt: skip
    tints: dict[str, Any] = {key: blank(model.get_buffer(f"constant_{key}")) for key in model._constants}
    tints[model.input] = coloured(batch)
    influence = Influence(model.get_submodule)

    def visit(step: Step, real: tuple[Any, ...], value: Any) -> None:
        args = _bound(step.args, tints)
        keywords = {key: _bound(part, tints) for key, part in step.keywords.items()}
        tints[step.name] = influence.after(step, real, args, keywords, value)
        assert not any(is_mixed(part) for part in tree_leaves(tints[step.name]) if isinstance(part, Tensor)), step

    model.run(batch, visit)
    assert is_apart(tints[model.output], 3)
