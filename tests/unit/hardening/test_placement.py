"""Guards are placed by what is computed: all branch outputs, residual sums and logits of every family."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import dataset
from holdfast.hardening import RangeGuard, harden, method_of, place
from holdfast.hardening.capture import capture
from holdfast.models import attach_guard, build_architecture, card, sites, tap
from tests.unit.hardening.families import FAMILIES


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, int, int]:
    build, example, branches, sums = FAMILIES[request.param]
    torch.manual_seed(0)
    return build().eval(), example, branches, sums


def test_every_branch_sum_and_logit_is_found(family):
    model, example, branches, sums = family
    found = place(model, example)
    assert len(found.branches) == branches
    assert len(found.sums) == sums
    assert len(found.logits) == 1
    assert set(found.sites) <= {site.name for site in sites(model, example)}


@torch.no_grad()
def test_no_infinity_of_a_branch_passes_its_guards(family):
    """NaN, infinity and 1e30 at any guarded place leave finite logits; without guards they do not."""
    model, example, _, _ = family
    found, batch = place(model, example), torch.stack([example] * 2)
    for site in found.sites:
        attach_guard(model, RangeGuard(site, -50.0, 50.0))
    golden = model(batch)
    for site in found.sites:
        for value in (torch.nan, torch.inf, -torch.inf, 1e38):

            def strike(output: Tensor, value: float = value) -> Tensor:
                output[..., ::3] = value
                return output

            with tap(model, {site: strike}):
                assert model(batch).abs().max() <= 50, (site, value)
    assert torch.equal(model(batch), golden)


def test_names_of_what_is_found():
    torch.manual_seed(0)
    found = place(FAMILIES["eva"][0]().eval(), FAMILIES["eva"][1])
    assert found.branches[:2] == ("blocks.0/mul", "blocks.0/mul#1")
    assert found.sums[:2] == ("blocks.0/add", "blocks.0/add#1")
    assert found.logits == ("head",)
    found = place(FAMILIES["resnet"][0]().eval(), FAMILIES["resnet"][1])
    assert found.branches == ("layers.0.bn2", "layers.1.bn2", "layers.1.downsample.1")
    assert found.sums == ("layers.0/add", "layers.1/add")


def test_dropped_paths_hide_nothing():
    """Identities end where paths are dropped: a net with DropPath objects has as many branches as one without."""
    torch.manual_seed(0)
    post, example = FAMILIES["swinv2"][0]().eval(), FAMILIES["swinv2"][1]
    assert not [module for module in post.modules() if type(module) is nn.Identity]
    assert place(post, example).branches == (
        "blocks.0.norm1",
        "blocks.0.norm2",
        "blocks.1.norm1",
        "blocks.1.norm2",
    )


@pytest.mark.parametrize(("name", "branches"), [("cifar-resnet20", 9), ("vit-tiny", 8), ("lenet", 0)])
def test_architectures_that_come_with_holdfast(name: str, branches: int):
    model = build_architecture(name).eval()
    found = place(model, torch.rand(card(model).input_shape))
    assert len(found.branches) == len(found.sums) == branches
    assert len(found.logits) == 1


class Plain(nn.Module):
    """Additions that are no residual: of a parameter, of a constant, of two products of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.shift = nn.Linear(4, 4), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x) + self.shift + 1
        return y.cos() * 2 + y.sin() * 3


def test_what_is_no_residual():
    found = place(Plain().eval(), torch.rand(4))
    assert (found.branches, found.sums, found.logits) == ((), (), ("/add#2",))


def test_encoder_layers_of_torch_itself():
    """Their fast path, which computes no places, is off where guards are."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(40, 3)).eval()
    found = place(model, torch.rand(5, 8))
    assert len(found.branches) == len(found.sums) == 4
    guards = [RangeGuard(site, -50.0, 50.0) for site in found.sites]
    for guard in guards:
        attach_guard(model, guard)
    with torch.no_grad():
        model(torch.rand(3, 5, 8))
    assert [guard.site for guard in guards if guard.events is None] == []


def test_what_an_in_place_addition_made_is_a_node_of_its_own():
    model = FAMILIES["resnet"][0]().eval()
    found = capture(model, FAMILIES["resnet"][1])
    add = next(node for node in found.nodes if node.site == "layers.0/add")
    relu = next(node for node in found.nodes if node.number > add.number and node.operation == "ReLU")
    assert add.written == add.number
    assert add.number in relu.parents
    assert [found.nodes[number].site for number in found.outputs] == ["fc"]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.fc = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x += self.branch(x)
        return self.fc(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_hook_makes_of_the_input_is_the_input(dtype: torch.dtype) -> None:
    """A model of another precision casts on the way in: its sums are sums all the same."""
    model = Residual().to(dtype).eval()
    model.register_forward_pre_hook(lambda _, args: (args[0].to(dtype) * 2,))
    found = place(model, torch.rand(6))
    assert (found.branches, found.sums, found.logits) == (("branch",), ("/add",), ("fc",))


def test_a_net_without_branches_says_that_its_logits_alone_are_guarded(caplog: pytest.LogCaptureFixture) -> None:
    data, method = dataset("digits").take(8), method_of("range")
    for model, words in (
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)), "only the logits are guarded"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 6), Residual(), nn.Linear(2, 10)), ""),
    ):
        caplog.clear()
        hardened = harden(model.eval(), method.calibrated(model, data))
        assert words in caplog.text
        assert (len(card(hardened).guards) == 1) == bool(words)
        assert bool(caplog.text) == bool(words)
