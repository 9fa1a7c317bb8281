"""Architectures: their sizes, their inputs, weights from a seed, and factories of the user's own."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.errors import InvalidConfig, UnknownName, UnreadableArtifact, UnsafeArtifact
from holdfast.models import architectures, build_architecture, card, load, manifest_of, save

SIZES = {"cifar-resnet20": 269722, "cifar-resnet32": 464154, "cifar-resnet44": 658586, "cifar-resnet56": 853018}


@pytest.mark.parametrize("name", ["simplenet", "lenet", "vit-tiny", "digits-cnn", *SIZES])
@torch.no_grad()
def test_every_architecture_computes_logits(name):
    model = build_architecture(name).eval()
    assert name in architectures.names()
    assert model(torch.rand(2, *card(model).input_shape)).shape == (2, 10)
    assert card(model).architecture == name


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_residual_nets_have_the_size_of_their_paper(name, size):
    assert sum(p.numel() for p in build_architecture(name).parameters()) == size


def test_simplenet_has_the_size_of_its_paper():
    assert round(sum(p.numel() for p in build_architecture("simplenet").parameters()) / 1e6, 1) == 5.5


def test_options_in_the_specification_are_kept(tmp_path):
    model = build_architecture("digits-cnn:channels=4,classes=3")
    save(model, tmp_path / "m")
    assert load(tmp_path / "m").fc.out_features == 3


def test_weights_come_from_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, same, other = (build_architecture("lenet", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert manifest_of(one) == manifest_of(same)
    assert manifest_of(one) != manifest_of(other)


FACTORY = """
from torch import nn

def make():
    from own_layers import width  # found while the factory runs
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width))

def needs(size):
    return nn.Linear(size, size)

def nothing():
    return 3

constant = 5
"""


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(FACTORY)
    (tmp_path / "own_layers.py").write_text("width = 2\n")
    monkeypatch.chdir(tmp_path)


def test_a_factory_in_the_current_folder_is_used_and_remembered(own_package, tmp_path):
    model = build_architecture("own_nets:make")
    assert isinstance(model, nn.Sequential)
    save(model, tmp_path / "m")
    assert manifest_of(load(tmp_path / "m")) == manifest_of(model)


def named(model: nn.Module, folder: Path, architecture: str) -> Path:
    """Return the folder of an artifact that names another architecture than it was saved with."""
    save(model, folder)
    value = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(value | {"architecture": architecture}))
    return folder


def test_a_file_has_no_code_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = named(build_architecture("digits-cnn"), tmp_path / "stranger", "stranger.net:make")
    (folder / "net.py").write_text("raise SystemExit('the code of a file runs')")
    with pytest.raises(UnsafeArtifact, match=r"names the code 'stranger\.net:make'"):
        load(folder)
    with pytest.raises(SystemExit, match="runs"):
        load(folder, arch="stranger.net:make")  # whoever calls may say so


def test_a_signed_file_may_name_what_is_installed_and_nothing_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = named(build_architecture("digits-cnn"), tmp_path / "m", "strange_net:make")
    (tmp_path / "strange_net.py").write_text(FACTORY)
    digests = {name: sha256((folder / name).read_bytes()).hexdigest() for name in ("model.json", "model.safetensors")}
    with pytest.raises(UnknownName, match="cannot import"):
        load(folder, expected=digests)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnreadableArtifact, match="lacks"):  # it was built, and is another net
        load(folder, expected=digests)


def test_a_file_calls_nothing_but_what_makes_modules(tmp_path):
    import holdfast.cli  # noqa: F401  (imported, and no factory all the same)

    for target in ("os:abort", "gc:disable", "builtins:breakpoint", "tempfile:mkdtemp", "holdfast.cli:main"):
        with pytest.raises(UnsafeArtifact, match="would run"):
            load(named(build_architecture("digits-cnn"), tmp_path / "m", target))


@pytest.mark.parametrize("name", ["needs", "nothing", "constant"])
def test_what_is_no_factory_is_refused(own_package, name):
    with pytest.raises(InvalidConfig, match="own_nets:"):
        build_architecture(f"own_nets:{name}")


def test_unknown_names_show_the_nearest(own_package):
    with pytest.raises(UnknownName) as caught:
        build_architecture("resnet20")
    assert "cifar-resnet20" in caught.value.hint
    for spec in ("own_nets:absent", "no_such_module:make"):
        with pytest.raises(UnknownName, match="cannot import"):
            build_architecture(spec)


def test_an_unknown_option_is_named():
    with pytest.raises(InvalidConfig, match="channel_count"):
        build_architecture("digits-cnn:channel_count=3")


def test_the_registry_keeps_its_name_whatever_is_imported() -> None:
    """A package of the same name beside it would take its place as soon as somebody imports that."""
    import holdfast.models

    build_architecture("lenet")
    assert holdfast.models.architectures is architectures
    assert "lenet" in holdfast.models.architectures.names()
