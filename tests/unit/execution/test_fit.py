"""Models and data that do not fit are told apart from bugs and from faults."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.cli import main
from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig
from holdfast.execution import campaign, robust_error, sensitivity
from holdfast.execution.fit import require_fit
from holdfast.faults import BitErrors, BitFlip
from holdfast.faults.adversarial import Budget, RandomBits, attack
from holdfast.hardening import profile
from holdfast.models import build_architecture, save
from holdfast.training import train
from holdfast.training.recipes import Schedule, Standard


def images(shape: tuple[int, ...] = (3, 32, 32), n: int = 40, classes: int = 10) -> Dataset:
    raw = torch.rand((n, *shape), generator=torch.Generator().manual_seed(0))
    return Dataset("made", raw, torch.arange(n) % classes, tuple(map(str, range(classes))))


def linear(outputs: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))


def test_what_fits_is_let_through_and_left_as_it_was():
    model = build_architecture("digits-cnn").train()
    require_fit(model, dataset("digits"))
    assert model.training


def test_torchs_reason_is_given_in_one_line():
    with pytest.raises(InvalidConfig, match=r"samples are 3x32x32 \(.*cannot be multiplied") as caught:
        require_fit(linear(), images())
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_card_that_knows_better_is_believed_without_a_run():
    model = build_architecture("digits-cnn")
    model.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    with pytest.raises(InvalidConfig, match=r"samples are 3x32x32 \(it was made for 1x8x8\)"):
        require_fit(model, images())


def test_a_language_model_is_pointed_to_text():
    model = build_architecture("llama:dim=16,inner=16,layers=1,heads=2,groups=2,vocabulary=32,context=24")
    with pytest.raises(InvalidConfig, match="made for 24 tokens") as caught:
        require_fit(model, dataset("digits"))
    assert "wikitext2" in caught.value.hint


def test_labels_beyond_the_outputs_are_named():
    with pytest.raises(InvalidConfig, match="labels up to 9, the model only 5 outputs"):
        require_fit(linear(5), images((1, 8, 8)))


@pytest.mark.parametrize(
    "use",
    [
        lambda model, data: campaign(model, data, BitFlip(), at="activations", trials=2),
        lambda model, data: robust_error(model, data, BitErrors(rate=0.01), chips=1),
        lambda model, data: sensitivity(model, data, BitErrors(rate=0.01), by="bit", chips=1),
        lambda model, data: attack(model, data, RandomBits(), Budget(bits=1), images=8),
        lambda model, data: profile(model, data),
        lambda model, data: train(model, data, Standard(schedule=Schedule(epochs=1))),
    ],
    ids=["campaign", "robust_error", "sensitivity", "attack", "profile", "train"],
)
def test_whatever_measures_or_trains_asks_first(use):
    with pytest.raises(InvalidConfig, match="does not take what the data holds"):
        use(linear(), images())


class Fragile(nn.Module):
    """Fails once it has been called ``calls`` times."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.inner, self.left = linear(), calls

    def forward(self, batch: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("later")
        return self.inner(batch)


def test_a_failure_in_a_later_batch_stays_what_it_is():
    with pytest.raises(RuntimeError, match="later"):
        robust_error(Fragile(calls=1), images((1, 8, 8)), BitErrors(rate=0.01), chips=1)


@pytest.mark.parametrize(
    "call",
    [
        ["campaign", "m", "--fault", "bit-flip", "--trials", "2", "-o", "out"],
        ["attack", "m", "--images", "8", "-o", "out"],
        ["assess", "m", "-o", "out"],
        ["train", "m", "-o", "out"],
        ["train", "digits-cnn", "-o", "out"],
    ],
    ids=["campaign", "attack", "assess", "train", "train-fresh"],
)
def test_the_command_line_calls_it_a_wrong_argument_and_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: list[str]
):
    monkeypatch.chdir(tmp_path)
    save(build_architecture("digits-cnn"), "m")
    monkeypatch.setattr("holdfast.data.dataset", lambda *_, **__: images())
    assert main([*call, "--data", "any"]) == 2
    said = capsys.readouterr().err
    assert "samples are 3x32x32 (it was made for 1x8x8)" in said
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_probes_of_another_shape_are_a_wrong_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    save(build_architecture("digits-cnn"), "m")
    assert main(["run", "m", "--shape", "3x32x32", "-o", "trace"]) == 2
    assert "samples are 3x32x32" in capsys.readouterr().err
    assert not Path("trace").exists()
