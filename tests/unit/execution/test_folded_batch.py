"""Models that fold the batch into another dimension: every row of a batch meets its own fault, at its own element."""

from __future__ import annotations

import struct

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.data import Dataset
from holdfast.execution.condition import Flips
from holdfast.execution.engines import Engine, build_engine
from holdfast.execution.plan import Trial
from holdfast.execution.trials import TrialRunner
from holdfast.hardening.evaluate import false_positives
from holdfast.hardening.guards import RangeGuard
from holdfast.models import Site, card
from holdfast.models.guard import attach_guard

NAMES = ("a", "b", "c")
TOKENS, FEATURES, HIDDEN, CLASSES, ROWS = 6, 4, 5, 3, 4


class Folded(nn.Module):
    """(batch, 1, tokens, features) in; computes (tokens * batch, ...) or else (batch * tokens, ...)."""

    def __init__(self, tokens_first: bool) -> None:
        super().__init__()
        self.tokens_first = tokens_first
        self.first, self.second = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        batch = len(x)
        rows = (x[:, 0].transpose(0, 1) if self.tokens_first else x[:, 0]).reshape(-1, FEATURES)
        hidden = self.second(self.hidden(rows))
        if self.tokens_first:
            return hidden.view(TOKENS, batch, CLASSES).mean(0)
        return hidden.view(batch, TOKENS, CLASSES).mean(1)

    def hidden(self, rows: Tensor) -> Tensor:
        return torch.tanh(self.first(rows))


class Between(nn.Module):
    """The batch is neither the first nor the last of three dimensions that are folded into one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        split = x.view(len(x), 2, TOKENS // 2, FEATURES).transpose(0, 1)  # (2, batch, tokens / 2, features)
        hidden = torch.tanh(self.first(split.reshape(-1, FEATURES)))
        return hidden.view(2, len(x), TOKENS // 2, HIDDEN).sum((0, 2))[:, :CLASSES]


class Scored(nn.Module):
    """One number per token, (tokens * batch,)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LayerNorm(FEATURES)
        self.score = nn.Hardtanh()

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x[:, 0].transpose(0, 1).reshape(-1, FEATURES))
        score = self.score(rows[:, 0] * rows[:, 1])
        return (rows * score[:, None]).view(TOKENS, len(x), FEATURES).sum(0)[:, :CLASSES]


@pytest.fixture(params=["tokens first", "batch first", "between"])
def net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(1)
    return (Between() if request.param == "between" else Folded(request.param == "tokens first")).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(ROWS, 1, TOKENS, FEATURES, generator=torch.Generator().manual_seed(2))


def hidden_site(net: nn.Module, images: Tensor) -> Site:
    return holdfast.select(net, "activations:first", images[0])[0]


def flipped(value: float, bit: int) -> float:
    return struct.unpack("<f", struct.pack("<I", struct.unpack("<I", struct.pack("<f", value))[0] ^ (1 << bit)))[0]


def by_hand(net: nn.Module, image: Tensor, element: int, bit: int) -> Tensor:
    """One image alone, whose element of the first layer's output is flipped without Holdfast."""

    def hook(_: nn.Module, __: object, output: Tensor) -> None:
        flat = output.view(-1)
        flat[element] = flipped(float(flat[element]), bit)

    handle = net.first.register_forward_hook(hook)
    try:
        with torch.no_grad():
            return net(image[None])[0]
    finally:
        handle.remove()


def trial(site: Site, number: int, element: int, bit: int = 30) -> Trial:
    return Trial(number, (Flips(site, torch.tensor([element]), torch.tensor([1 << bit])),), number % ROWS)


@pytest.mark.parametrize("engine", ["hooks", "suffix"])
@pytest.mark.parametrize("bit", [31, 30, 23])
def test_each_row_of_a_batch_meets_its_own_fault(net, images, engine, bit):
    site = hidden_site(net, images)
    built = build_engine(engine, net, lambda numbers: images[list(numbers)])
    for element in range(site.numel):
        block = tuple(trial(site, row, (element + 7 * row) % site.numel, bit) for row in range(ROWS))
        with torch.no_grad():
            found = built.faulty(block)
        expected = torch.stack([by_hand(net, images[t.input], int(t.flips[0].index[0]), bit) for t in block])
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("engine", ["hooks", "suffix", "lockstep:rows=4"])
@pytest.mark.parametrize("place", ["first", "score"])
def test_engines_agree_where_a_sample_lies_in_pieces(images, engine, place):
    net = Scored().eval()
    site = holdfast.select(net, f"activations:{place}", images[0])[0]
    built = build_engine(engine, net, lambda numbers: images[list(numbers)])
    for element in range(site.numel):
        block = tuple(trial(site, row, (element + 5 * row) % site.numel, 29) for row in range(ROWS))
        with torch.no_grad():
            together, alone = built.faulty(block), torch.cat([build_alone(net, images).faulty((t,)) for t in block])
            clean = net(images)
        assert torch.allclose(together, alone, rtol=1e-5, atol=1e-6, equal_nan=True)
        assert not torch.allclose(together, clean)


def build_alone(net: nn.Module, images: Tensor) -> Engine:
    return build_engine("hooks", net, lambda numbers: images[list(numbers)])


def test_an_injected_fault_is_at_the_same_element_of_every_sample(net, images):
    with (
        holdfast.inject(net, holdfast.BitErrors(rate=0.02), at="activations:first", seed=3, example=images[0]),
        torch.no_grad(),
    ):
        together, alone = net(images), torch.cat([net(image[None]) for image in images])
    assert torch.allclose(together, alone, rtol=1e-5, atol=1e-6, equal_nan=True)


def guarded(net: nn.Module, images: Tensor) -> nn.Module:
    with torch.no_grad():
        seen = net.first(images.reshape(-1, FEATURES))
    attach_guard(net, RangeGuard("first", float(seen.min()), float(seen.max())))
    return net


@pytest.mark.parametrize("engine", ["hooks", "suffix"])
def test_what_a_guard_did_belongs_to_the_row_for_which_it_did_it(net, images, engine):
    site, data = hidden_site(net, images), Dataset("drawn", images, torch.zeros(ROWS, dtype=torch.int64), NAMES)
    runner = TrialRunner(guarded(net, images), data, engine=engine)
    block = tuple(trial(site, row, 9 * row, 30 if row == 1 else 0) for row in range(ROWS))
    assert [row.guard_events for row in runner(block)] == [0, 1, 0, 0]


class TokensFirst(nn.Module):
    """(tokens, batch, features) all the way, as nn.LSTM and nn.Transformer are by default; as many tokens as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x[:, 0].transpose(0, 1))).mean(0))


def test_a_guard_that_counts_tokens_is_asked_about_one_row_at_a_time():
    torch.manual_seed(1)
    net, images = TokensFirst().eval(), torch.randn(ROWS, 1, ROWS, FEATURES)
    images[2, 0, 3] *= 50  # one token of one sample leaves the range without any fault
    data = Dataset("drawn", images, torch.zeros(ROWS, dtype=torch.int64), NAMES)
    with torch.no_grad():
        usual = net.first(images[:2])
    attach_guard(net, RangeGuard("first", float(usual.min()), float(usual.max())))
    site = holdfast.select(net, "outputs", images[0])[0]
    rows = TrialRunner(net, data, engine="hooks")(tuple(trial(site, row, 0, 0) for row in range(ROWS)))
    alone = []
    for image in images:
        with torch.no_grad():
            net(image[None])
        alone.append(int(card(net).guards[0].events.sum()))
    assert alone[2] > 0
    assert [row.guard_events for row in rows] == alone


def test_false_positives_are_of_the_samples_that_guards_touched(net, images):
    wide = images.clone()
    wide[2] *= 50
    data = Dataset("drawn", wide, torch.zeros(ROWS, dtype=torch.int64), NAMES)
    plain = type(net)(net.tokens_first) if isinstance(net, Folded) else type(net)()
    plain.load_state_dict(net.state_dict())
    kept = guarded(net, images)
    touched = sum(int(false_positives(plain.eval(), kept, data.subset([k])).samples.value > 0) for k in range(ROWS))
    assert touched == 1
    assert false_positives(plain, kept, data).samples.value == 1 / ROWS


def test_finding_places_leaves_every_module_in_its_mode(net, images):
    net.train()
    net.first.eval()  # as a frozen layer is
    holdfast.sites(net, images[0])
    assert net.training
    assert not net.first.training


def test_places_that_no_fault_can_strike_are_named(images, caplog):
    holdfast.select(TokensFirst().eval(), "activations", torch.randn(1, TOKENS, FEATURES))
    assert [record.getMessage() for record in caplog.records] == [
        "2 places hold their samples along another dimension than the first, and cannot be struck: first, /tanh"
    ]


def test_a_last_token_is_not_taken_for_all_of_them(caplog):
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = nn.GRU(FEATURES, HIDDEN)

        def forward(self, x: Tensor) -> Tensor:
            return self.steps(x[:, 0].transpose(0, 1))[0][-1] * 2

    found = holdfast.select(Recurrent().eval(), "activations", torch.randn(1, TOKENS, FEATURES))
    assert [site.shape for site in found if "getitem" in site.name] == [(HIDDEN,)]
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["steps#0.0, steps#0.1"]


def test_nothing_is_said_of_what_nobody_asked_for(net, images, caplog):
    holdfast.select(net, "activations", images[0])  # which keeps samples first
    holdfast.select(TokensFirst().eval(), "outputs,activations:second", torch.randn(1, TOKENS, FEATURES))
    assert not caplog.records
