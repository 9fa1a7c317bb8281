"""Checksums inside ``torch.autocast``, where neither inputs nor stored weights are what a product multiplies."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.data import Dataset
from holdfast.errors import IntegrityError, UnsupportedFormat
from holdfast.hardening import ChecksumGuard, Checksums, harden, methods
from holdfast.hardening.guards.checksum_linear import wrong_columns
from holdfast.hardening.guards.checksum_operands import multiplied
from holdfast.hardening.guards.checksum_operations import Located
from holdfast.hardening.guards.checksum_reference import wrong_rows
from holdfast.hardening.guards.checksum_rounding import FALSE_ALARMS, Rounding
from holdfast.models import card, tap
from holdfast.models.guard import Operands
from holdfast.numerics import bits
from holdfast.seeds import derive
from tests.unit.hardening.products import NARROW, alarmed, everything, images


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def layer(action: str = "correct", inputs: int = 96, outputs: int = 33) -> tuple[nn.Module, ChecksumGuard]:
    model = nn.Sequential(nn.Linear(inputs, outputs)).eval()
    generator = derive(1, "layer").torch()
    for item in model.parameters():
        item.copy_(torch.randn(item.shape, generator=generator) / 8)
    hard = harden(model, Checksums(sites=("0",), action=action))  # type: ignore[arg-type]
    (guard,) = card(hard).guards
    assert isinstance(guard, ChecksumGuard)
    return hard, guard


@pytest.mark.parametrize("dtype", NARROW)
def test_what_is_wrong_is_what_the_plain_formula_says_of_the_rounded_factors(dtype: torch.dtype) -> None:
    model, guard = layer("detect")
    weight, bias, draw = model[0].weight.to(dtype), model[0].bias.to(dtype), derive(3, "rows").torch()
    x = torch.randn(64, 96, generator=draw)
    errors = torch.logspace(-4, 1, 64)  # from far below the threshold to far above it

    def hit(output: Tensor) -> Tensor:
        output[:, 5] += errors.to(output.dtype)
        return output

    with torch.autocast("cpu", dtype), tap(model, {"0": hit}):
        seen = model(x)
    signs = guard.inner.sums.signs  # type: ignore[union-attr]
    expected = wrong_rows(x.to(dtype), seen, weight, bias, signs, FALSE_ALARMS)
    assert guard.alarms.nonzero().flatten().tolist() == expected
    assert 0 < len(expected) < 64


class One(nn.Module):
    """One product of a kind, of an input (batch, 40, 24)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear, self.conv = nn.Linear(24, 33), nn.Conv1d(40, 12, 5, padding=2)
        generator = derive(11, "one").torch()
        self.mask = nn.Parameter(torch.empty(40, 40), requires_grad=False)
        for item in self.parameters():
            item.copy_(torch.randn(item.shape, generator=generator) / 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "attention":
            return F.scaled_dot_product_attention(x, x.flip(1), x.roll(3, 2), attn_mask=self.mask)
        if self.kind in ("linear", "conv"):
            found: Tensor = self.get_submodule(self.kind)(x)
            return found
        return torch.bmm(x, x.transpose(1, 2)) if self.kind == "bmm" else x @ x.transpose(1, 2)


SITES = {"linear": "linear", "conv": "conv", "bmm": "/bmm", "matmul": "/matmul"}
SITES |= {"attention": "/scaled_dot_product_attention"}


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("kind", SITES)
def test_a_region_is_judged_as_its_rounded_tensors_are_outside(kind: str, dtype: torch.dtype) -> None:
    """Errors from far below every threshold to far above it, beside a large sum that narrow checks would drown in."""
    x = torch.randn(160, 40, 24, generator=derive(12, kind).torch()).abs() + 1
    sizes = torch.logspace(-2.5, 2.5, 160).view(-1, 1)
    checksums, alarms, outputs = Checksums(sites=(SITES[kind],), action="detect"), [], []
    for given, model, inside in ((x, One(kind), True), (x.to(dtype), One(kind).to(dtype), False)):
        hard = harden(model.eval(), checksums)

        def hit(output: Tensor) -> Tensor:
            output[:, 3, 7:8] += sizes.to(output.dtype)
            return output

        with torch.autocast("cpu", dtype, enabled=inside):
            outputs.append(hard(given))
            assert not any(alarmed(hard).values())
            with tap(hard, {SITES[kind]: hit}):
                hard(given)
        alarms.append(card(hard).guards[0].alarms.tolist())
    assert bits.bit_equal(*outputs)
    assert alarms[0] == alarms[1]
    assert 10 < sum(alarms[0]) < 150


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("kind", ["linear", "matmul"])
def test_terms_that_cancel_leave_a_threshold_below_the_rounding_of_factors(kind: str, dtype: torch.dtype) -> None:
    """Inputs from the null space of a product: the rounding of factors is all that is left, and is no fault."""
    draw = derive(13, kind).torch()
    factor = torch.randn(16, 96, generator=draw)
    inputs = torch.linalg.svd(factor).Vh[16:]  # (80, 96), each row orthogonal to all of factor

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(96, 16, bias=False)
            self.inner.weight.copy_(factor)

        def forward(self, x: Tensor) -> Tensor:
            return x @ factor.T if kind == "matmul" else self.inner(x)

    model = harden(Product().eval(), Checksums(sites=("/matmul" if kind == "matmul" else "inner",), action="detect"))
    with torch.autocast("cpu", dtype):
        small = model(inputs)
    assert small.abs().max() < 0.05
    assert not any(alarmed(model).values())


def test_a_check_reads_rounded_operands_and_computes_in_no_region() -> None:
    wide, mask = torch.rand(2, 3), torch.rand(3, 3)
    called = Operands(F.scaled_dot_product_attention, (wide, wide), {"value": wide, "attn_mask": mask, "scale": 0.5})
    output = wide.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        with multiplied(called, output) as taken:
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
        with pytest.raises(ZeroDivisionError), multiplied(called, output):
            raise ZeroDivisionError
        assert torch.is_autocast_enabled("cpu")
    assert all(torch.equal(item, output) for item in (*taken.args, taken.kwargs["value"]))
    assert (taken.kwargs["attn_mask"].dtype, taken.kwargs["scale"]) == (torch.bfloat16, 0.5)
    with multiplied(called, output) as taken:  # the region was the layer's own, and is left by now
        assert taken.args[0].dtype == torch.bfloat16
    narrow = Operands(F.scaled_dot_product_attention, (output, output, output, mask), {})
    with multiplied(narrow, output) as taken:  # nobody rounds a mask outside
        assert taken is narrow


@pytest.mark.parametrize("dtype", NARROW)
def test_wrong_outputs_and_wrong_weights_are_set_right_to_the_bit(dtype: torch.dtype) -> None:
    model = everything("correct")
    x = images(0, derive(5, "x").torch())
    with torch.autocast("cpu", dtype):
        golden = model(x)
        for site in alarmed(model):

            def hit(output: Tensor) -> Tensor:
                output.flatten(1)[3, 11 % output[0].numel()] = 900
                return output

            with tap(model, {site: hit}):
                assert bits.bit_equal(model(x), golden), site
            assert sum(int(guard.events.sum()) for guard in card(model).guards if guard.site == site) == 1
    for name in ("first", "grouped", "line", "qkv", "out"):
        model.get_submodule(name).weight.flatten()[7] += 100
        with torch.autocast("cpu", dtype):
            assert bits.bit_equal(model(x), golden), name
        assert not any(alarmed(model).values())
    found = {guard.site: guard.located for guard in card(model).guards}
    assert found["qkv"] == Located("weight", ((0, 7),))


@pytest.mark.parametrize("dtype", NARROW)
def test_columns_whose_outputs_are_all_rounded_one_way_are_not_taken_for_wrong(dtype: torch.dtype) -> None:
    draw = derive(10, "alike").torch()
    weight, bias = (torch.randn(40, 16, generator=draw) / 100).to(dtype), torch.full((40,), 3.0).to(dtype)
    x = (torch.ones(300, 16) + torch.randn(300, 16, generator=draw) / 50).to(dtype)
    y = F.linear(x, weight, bias)
    assert wrong_columns(x, y, weight, bias, FALSE_ALARMS).tolist() == []
    y[17, 9] += 20
    assert wrong_columns(x, y, weight, bias, FALSE_ALARMS).tolist() == [9]


def test_a_flip_that_rounding_takes_away_is_no_fault() -> None:
    model, guard = layer()
    x = torch.randn(4, 96, generator=derive(6, "x").torch())
    model[0].weight.flatten()[5] = 1.0
    hard = harden(nn.Sequential(model[0]), Checksums(sites=("0",)))
    (guard,) = card(hard).guards
    with torch.autocast("cpu", torch.bfloat16):
        golden = hard(x)
        bits.xor_(hard[0].weight, torch.tensor([5]), bits.one_bit(torch.tensor([3])))
        assert bits.bit_equal(hard(x), golden)
    assert int(guard.events.sum()) == int(guard.alarms.sum()) == 0


def test_weights_that_were_hit_before_the_first_product_of_a_dtype_are_given_back() -> None:
    model, guard = layer()
    x = torch.randn(4, 96, generator=derive(7, "x").torch())
    with torch.autocast("cpu", torch.bfloat16):
        golden = copy.deepcopy(model)(x)
        model[0].weight[3, 5] += 10
        assert bits.bit_equal(model(x), golden)
    assert guard.located == Located("weight", ((3, 5),))
    model, _ = layer("detect")
    model[0].weight[3, 5] += 10
    model[0].weight[4, 5] += 20  # two of a column: nothing proven can be computed from these
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(IntegrityError, match="0 are not those"):
        model(x)


def test_one_guard_serves_regions_of_several_dtypes_and_none() -> None:
    model, guard = layer("detect")
    x = torch.randn(5, 96, generator=derive(8, "x").torch())
    for _ in range(2):
        for dtype in (None, *NARROW):
            with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
                assert model(x).dtype == (dtype or torch.float32)
                assert guard.alarms.tolist() == [0] * 5
                with torch.autocast("cpu", enabled=False):
                    assert model(x).dtype == torch.float32
                assert guard.alarms.tolist() == [0] * 5
    wide = model.double()
    with torch.autocast("cpu", torch.bfloat16):  # torch rounds no fp64
        assert wide(x.double()).dtype == torch.float64
    assert guard.alarms.tolist() == [0] * 5


def test_a_region_of_a_layers_own_counts_as_well() -> None:
    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    model = harden(nn.Sequential(Own(96, 33)).eval(), Checksums(sites=("0",)))
    (guard,) = card(model).guards
    x = torch.randn(5, 96, generator=derive(9, "x").torch())
    golden = model(x)
    assert (golden.dtype, guard.events.tolist(), guard.alarms.tolist()) == (torch.bfloat16, [0] * 5, [0] * 5)
    model[0].weight[3, 5] += 10
    assert bits.bit_equal(model(x), golden)
    assert guard.located == Located("weight", ((3, 5),))


def test_calibrating_inside_a_region_makes_no_guard_blind_outside(trained: nn.Module, digits: Dataset) -> None:
    def quick() -> list[float]:
        return [g.quick for g in card(harden(trained, methods.build("checksum").calibrated(trained, digits))).guards]

    outside = quick()
    with torch.autocast("cpu", torch.bfloat16):
        assert quick() == outside


def test_weights_that_overflow_in_the_region_are_one_clear_error() -> None:
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    model[0].weight[1, 2] = 1e6
    hard = harden(model, Checksums(sites=("0",)))
    with (
        torch.autocast("cpu", torch.float16),
        pytest.raises(UnsupportedFormat, match=r"of 0 overflow in torch.float16"),
    ):
        hard(torch.ones(2, 4))
    with torch.autocast("cpu", torch.bfloat16):
        hard(torch.ones(2, 4))
    assert card(hard).guards[0].alarms.tolist() == [0, 0]


def test_gradients_flow_out_of_a_region() -> None:
    with torch.enable_grad():
        grads = []
        for wanted in (False, True):
            model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval()
            for item in model.parameters():
                item.data = torch.linspace(-1, 1, item.numel()).view_as(item)
            subject = harden(model, Checksums(sites=("0", "1"))) if wanted else model
            with torch.autocast("cpu", torch.bfloat16):
                subject(torch.ones(3, 4)).float().square().sum().backward()
            grads.append(subject[0].weight.grad)
    assert torch.equal(*grads)


def on_a_gpu(dtype: torch.dtype) -> Tensor:
    return SimpleNamespace(dtype=dtype, is_cuda=True)  # type: ignore[return-value]


def test_on_a_gpu_the_threshold_follows_the_switches_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn, matmul = SimpleNamespace(allow_tf32=True), SimpleNamespace(allow_tf32=False, allow_fp16_accumulation=False)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    fine, tf32 = 2.0**-24, 2.0**-11
    assert Rounding.of(on_a_gpu(torch.float32)).unit == fine
    assert Rounding.of(on_a_gpu(torch.float32), convolution=True).unit == tf32  # torch's default
    assert Rounding.of(on_a_gpu(torch.float16)).unit == fine
    cudnn.allow_tf32, matmul.allow_tf32, matmul.allow_fp16_accumulation = False, True, True
    assert Rounding.of(on_a_gpu(torch.float32)).unit == tf32
    assert Rounding.of(on_a_gpu(torch.float32), convolution=True).unit == fine
    assert Rounding.of(on_a_gpu(torch.float16)).unit == 2.0**-11
    assert Rounding.of(on_a_gpu(torch.bfloat16)).unit == fine
