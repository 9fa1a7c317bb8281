"""The probe nets are the same bits wherever they are made."""

from __future__ import annotations

import pytest
import torch

from holdfast.errors import UnknownName
from holdfast.identification.probe_nets import PROBE_NETS, SHAPE, probe_inputs, probe_net
from holdfast.models import card, load, manifest_of, save

# changing any of these makes every library of anybody useless
DIGESTS = {
    "mlp": "a5672e596d9289ef",
    "cnn": "3971afb5a2144c12",
    "resnet": "bc1a4d9b2be42123",
    "mobilenet": "9943dc6e64146ee3",
    "transformer": "15874d1321628ab7",
    "reductions": "670b8f4badb1dd9c",
}


@pytest.mark.parametrize("name", PROBE_NETS)
def test_digests_are_those_of_every_library(name: str) -> None:
    assert manifest_of(probe_net(name)).digest.startswith(DIGESTS[name])


def test_inputs_are_a_prefix_of_one_list() -> None:
    assert probe_inputs(4).digest.startswith("7e39b6f1fe5e17cc")
    assert torch.equal(probe_inputs(9).raw[:4], probe_inputs(4).raw)
    assert tuple(probe_inputs(1).raw.shape) == (1, *SHAPE)


@pytest.mark.parametrize("name", PROBE_NETS)
def test_weights_are_integers_times_a_power_of_two(name: str) -> None:
    """So no conversion, on any platform, had anything to round."""
    for tensor in probe_net(name).state_dict().values():
        assert torch.equal((tensor.double() * 2**30).frac(), torch.zeros_like(tensor, dtype=torch.float64))


@pytest.mark.parametrize("name", PROBE_NETS)
def test_answers_differ_between_inputs_and_classes(name: str) -> None:
    with torch.no_grad():
        answers = probe_net(name)(probe_inputs(4).all()[0])
    assert answers.shape == (4, 10)
    assert torch.isfinite(answers).all()
    assert len(answers.unique()) == answers.numel()


def test_a_net_travels_as_an_artifact(tmp_path) -> None:
    save(probe_net("cnn"), tmp_path)
    found = load(tmp_path)
    assert manifest_of(found).digest == manifest_of(probe_net("cnn")).digest
    assert card(found).input_shape == SHAPE


def test_another_name_is_unknown() -> None:
    with pytest.raises(UnknownName, match="resnett"):
        probe_net("resnett")
