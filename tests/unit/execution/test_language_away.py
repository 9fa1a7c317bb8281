"""Language models on another device: chips, single faults and made text have the CPU's bits there.

The device is :mod:`tests.away`, which computes as the CPU does and refuses what a GPU refuses.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.errors import InvalidConfig
from holdfast.execution import (
    Language,
    Reading,
    accuracy,
    chips,
    continue_greedily,
    generate,
    inject_generation,
    language_robustness,
    language_sensitivity,
    perplexity,
    robust_error,
)
from holdfast.faults import BitErrors, BitFlip, StuckAt, TransientErrors
from holdfast.models import build_architecture
from holdfast.quantization import placed, quantize
from tests.away import AWAY, away
from tests.unit.execution.test_language import COUNTING, SHORT, Successor

READING = Reading(windows=3, prompts=2, prompt_tokens=3, new_tokens=4, batch_size=2)
PROMPTS = torch.tensor([[1, 2, 3], [1, 6, 7]])


@pytest.fixture(scope="module")
def llama() -> nn.Module:
    """A random decoder whose weights are large enough for its texts to vary."""
    model = build_architecture("llama:dim=16,inner=24,layers=2,heads=2,groups=2,vocabulary=8,context=12", seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return model


CASES = [
    ("float", BitErrors(rate=0.01)),
    ("int8", BitErrors(rate=0.01)),
    ("nf4", BitErrors(rate=0.01)),
    ("int8", StuckAt(rate=0.02)),
    ("rquant4", TransientErrors(rate=0.003)),
]


@pytest.mark.parametrize(("format", "law"), CASES, ids=str)
def test_chips_there_measure_what_chips_here_do(llama: nn.Module, format: str, law: object) -> None:
    model = llama if format == "float" else quantize(llama, format)
    expected = language_robustness(model, COUNTING, law, chips=2, reading=READING)
    with away(), placed(model, AWAY):
        found = language_robustness(model, COUNTING, law, chips=2, reading=READING)
        assert {value.device for value in model.parameters()} == {AWAY}
    assert found == expected
    assert max(found.moved) > 0
    assert {value.device.type for value in model.parameters()} == {"cpu"}


def test_groups_there_are_groups_here(llama: nn.Module) -> None:
    small = quantize(llama, "int8")
    options = {"by": "field", "chips": 2, "reading": READING}
    expected = language_sensitivity(small, COUNTING, BitErrors(rate=0.01), **options)
    with away(), placed(small, AWAY):
        assert language_sensitivity(small, COUNTING, BitErrors(rate=0.01), **options) == expected


def test_text_of_the_cpu_is_put_beside_the_model(llama: nn.Module) -> None:
    expected = perplexity(llama, COUNTING, reading=READING)
    texts = continue_greedily(llama, PROMPTS, 5, vocabulary=8), generate(llama, PROMPTS, 5)
    with away(), placed(llama, AWAY):
        assert perplexity(llama, COUNTING, reading=READING) == expected
        assert perplexity(llama, COUNTING.to(AWAY), reading=READING) == expected
        made = continue_greedily(llama, PROMPTS, 5, vocabulary=8), generate(llama, PROMPTS, 5)
        assert {tokens.device for tokens in made} == {AWAY}
        assert [tokens.tolist() for tokens in made] == [tokens.tolist() for tokens in texts]


@pytest.mark.parametrize("at", ["cache:layers.1.keys", "weights:model.layers.1*"])
def test_a_fault_at_a_token_there_is_the_one_here(llama: nn.Module, at: str) -> None:
    def made(prompts: Tensor) -> list[list[int]]:
        law = TransientErrors(rate=0.02) if at.startswith("weights") else BitFlip()
        with inject_generation(llama, law, prompt=prompts[0], at=at, step=1, seed=5):
            return generate(llama, prompts, 6).tolist()

    expected, clean = made(PROMPTS), generate(llama, PROMPTS, 6).tolist()
    with away(), placed(llama, AWAY):
        assert made(PROMPTS) == expected
        assert generate(llama, PROMPTS, 6).tolist() == clean


def test_single_faults_there_are_those_here(llama: nn.Module) -> None:
    task = Language(windows=2, context=8, prompt_tokens=3, new_tokens=4)
    options = {"at": "weights:model.layers.0*", "trials": 12, "seed": 1, "task": task, "engine": "hooks"}
    expected = holdfast.campaign(llama, COUNTING, BitFlip(), **options)
    with away(), placed(llama, AWAY):
        found = holdfast.campaign(llama, COUNTING.to(AWAY), BitFlip(), **options)
    assert [row.outcome for row in found.rows] == [row.outcome for row in expected.rows]
    assert [row.perplexity for row in found.rows] == [row.perplexity for row in expected.rows]


def test_images_there_as_well() -> None:
    data = holdfast.dataset("digits", split="test").take(40)
    small = quantize(build_architecture("digits-cnn:channels=4", seed=0).eval(), "rquant4")
    expected = robust_error(small, data, BitErrors(rate=0.02), chips=3), accuracy(small, data)
    with away(), placed(small, AWAY):
        assert (robust_error(small, data, BitErrors(rate=0.02), chips=3), accuracy(small, data)) == expected


def test_chips_of_another_device_are_not_taken_for_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    law, store = BitErrors(rate=0.05), tmp_path / "chips.sqlite"
    options = {"reading": SHORT, "store": store}
    language_robustness(Successor(), COUNTING, law, chips=2, **options)
    monkeypatch.setattr(chips, "knobs_of", lambda device: {"gpu": "a card", "tf32_matmul": "False"})
    with pytest.raises(InvalidConfig, match="differ in knobs"):
        language_robustness(Successor(), COUNTING, law, chips=3, **options)


def test_an_empty_chip_needs_no_pass(llama: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    found = language_robustness(llama, COUNTING, BitErrors(rate=0.0), chips=2, reading=READING)
    assert found.flips == (0, 0)
    assert found.per_chip == (found.clean.value,) * 2


def test_texts_leave_the_device_in_one_transfer(llama: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chip reads losses, texts and the share that moved; not token by token."""
    reads: list[tuple[str, tuple[int, ...]]] = []
    for name in ("item", "tolist", "__int__", "__float__", "__bool__"):
        plain = getattr(Tensor, name)

        def read(self: Tensor, *, plain: object = plain, name: str = name) -> object:
            reads.append((name, tuple(self.shape)))
            return plain(self)  # type: ignore[operator]

        monkeypatch.setattr(Tensor, name, read)
    language_robustness(llama, COUNTING, BitErrors(rate=0.0), chips=1, reading=READING)
    assert ("tolist", (READING.prompts, READING.new_tokens)) in reads
    assert len(reads) < 40
