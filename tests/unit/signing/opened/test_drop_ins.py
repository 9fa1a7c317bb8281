"""The stand-ins for load_file, safe_open, np.load and from_pretrained: same results, only from signed bytes."""

from __future__ import annotations

import inspect
import json
import socket
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from safetensors.torch import save_file

from holdfast.errors import (
    DigestMismatch,
    InvalidConfig,
    NoSuchSite,
    RecordMissing,
    UnknownName,
    UnreadableArtifact,
    UnsafeArtifact,
)
from holdfast.signing import sign
from holdfast.signing.opened import open_verified
from holdfast.signing.opened.gguf import open_gguf
from holdfast.signing.opened.npz import load_npz
from holdfast.signing.opened.safetensors import load_file, safe_open
from holdfast.signing.opened.sealed import sealed_folder
from holdfast.signing.opened.transformers import from_pretrained
from tests.signed_models import KEY, KIB, make_model, sign_manifest, tensors

PUBLIC = KEY.public


@pytest.fixture(params=[0, KIB], ids=["whole", "outboard"])
def weights(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "m"
    folder.mkdir()
    save_file(tensors(), folder / "model.safetensors", metadata={"format": "pt", "step": "7"})
    sign_manifest(folder, outboards=request.param)
    return folder / "model.safetensors"


def equal(found: dict[str, torch.Tensor], peer: dict[str, torch.Tensor]) -> bool:
    return found.keys() == peer.keys() and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in peer.items()
    )


def test_load_file_takes_what_the_other_one_takes(weights: Path):
    ours, theirs = (inspect.signature(call).parameters for call in (load_file, safetensors.torch.load_file))
    assert list(ours)[:2] == list(theirs)[:2]
    assert equal(load_file(weights, trust=PUBLIC), safetensors.torch.load_file(weights))
    assert equal(load_file(str(weights), "cpu", trust=PUBLIC, threads=2), safetensors.torch.load_file(weights))
    with pytest.raises(InvalidConfig):
        load_file(weights, trust=PUBLIC, backend="mmap")


def test_safe_open_gives_what_the_other_one_gives(weights: Path):
    with safetensors.safe_open(weights, "pt") as peer, safe_open(weights, "pt", trust=PUBLIC) as ours:
        assert ours.keys() == sorted(peer.keys())
        assert ours.metadata() == peer.metadata() == {"format": "pt", "step": "7"}
        stored = [name for name in peer.offset_keys() if peer.get_tensor(name).numel()]
        assert [name for name in ours.offset_keys() if name in stored] == stored
        for name in peer.keys():  # noqa: SIM118 - safe_open cannot be iterated
            assert torch.equal(ours.get_tensor(name), peer.get_tensor(name))
            assert ours.get_slice(name).get_shape() == peer.get_slice(name).get_shape()
            assert ours.get_slice(name).get_dtype() == peer.get_slice(name).get_dtype()
        assert torch.equal(ours.get_slice("big")[5:9, :7], peer.get_slice("big")[5:9, :7])


def test_metadata_that_was_changed_is_refused(weights: Path):
    data = weights.read_bytes()
    weights.write_bytes(data.replace(b'"step":"7"', b'"step":"8"'))
    with safe_open(weights, trust=PUBLIC) as file:
        assert torch.equal(file.get_tensor("big"), tensors()["big"])
        with pytest.raises(DigestMismatch):
            file.metadata()


def test_a_file_is_covered_by_a_signature_of_its_own_or_above(tmp_path: Path):
    deep = tmp_path / "m" / "unet" / "w.safetensors"
    deep.parent.mkdir(parents=True)
    save_file(tensors(), deep)
    with pytest.raises(RecordMissing):
        load_file(deep, trust=PUBLIC)
    sign_manifest(tmp_path / "m")
    assert equal(load_file(deep, trust=PUBLIC), tensors())
    save_file(tensors(), tmp_path / "m" / "unet" / "new.safetensors")
    with pytest.raises(NoSuchSite, match=r"unet/new\.safetensors"):
        load_file(tmp_path / "m" / "unet" / "new.safetensors", trust=PUBLIC)
    with pytest.raises(UnreadableArtifact):
        load_file(tmp_path / "nothing.safetensors", trust=PUBLIC)


@pytest.mark.parametrize("name", ["m/unet/w.safetensors", "m/../m/unet/w.safetensors"])
def test_a_relative_path_finds_its_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    Path("m/unet").mkdir(parents=True)
    save_file(tensors(), "m/unet/w.safetensors")
    sign_manifest(Path("m"))
    assert equal(load_file(name, trust=PUBLIC), tensors())
    monkeypatch.chdir("m/unet")
    assert equal(load_file("w.safetensors", trust=PUBLIC), tensors())


def test_an_openssf_signature_serves_as_well(tmp_path: Path):
    save_file(tensors(), tmp_path / "w.safetensors", metadata={"a": "b"})
    sign(tmp_path / "w.safetensors", key=KEY)
    assert equal(load_file(tmp_path / "w.safetensors", trust=PUBLIC), tensors())
    with safe_open(tmp_path / "w.safetensors", trust=PUBLIC) as file:
        assert file.metadata() == {"a": "b"}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, save):
    arrays = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array([True, False])}
    save(tmp_path / "w.npz", **arrays)
    sign_manifest(tmp_path / "w.npz")
    found = load_npz(tmp_path / "w.npz", trust=PUBLIC)
    assert found.keys() == arrays.keys()
    assert all(
        np.array_equal(found[name], value) and found[name].dtype == value.dtype for name, value in arrays.items()
    )
    data = bytearray((tmp_path / "w.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "w.npz").write_bytes(data)
    with pytest.raises((DigestMismatch, UnreadableArtifact)):
        load_npz(tmp_path / "w.npz", trust=PUBLIC)


def test_objects_in_an_npz_are_never_unpickled(tmp_path: Path):
    np.savez(tmp_path / "w.npz", a=np.array([{"x": 1}], dtype=object))
    sign(tmp_path / "w.npz", key=KEY)
    with pytest.raises(UnsafeArtifact):
        load_npz(tmp_path / "w.npz", trust=PUBLIC)


@pytest.mark.parametrize("outboards", [0, KIB])
def test_gguf(tmp_path: Path, outboards: int):
    gguf = pytest.importorskip("gguf", reason="gguf is not installed (extra: peers)")
    writer = gguf.GGUFWriter(tmp_path / "w.gguf", "llama")
    plain = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    writer.add_uint32("llama.block_count", 3)
    writer.add_tensor("plain", plain)
    packed = gguf.quantize(plain, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    sign_manifest(tmp_path / "w.gguf", outboards=outboards)
    with open_gguf(tmp_path / "w.gguf", trust=PUBLIC) as file:
        assert file.metadata["llama.block_count"] == 3
        assert (file.tensors["packed"].dtype, file.tensors["packed"].shape) == ("q8_0", (4, 64))
        assert np.array_equal(file.get_array("plain"), plain)
        assert np.array_equal(file.get_array("packed"), packed)
        assert np.array_equal(file.model.get_slice("packed")[1:3].numpy(), packed[1:3])


def overwrite(path: Path, mode: str) -> None:
    with path.open(mode) as handle:
        handle.write(b"x")


def test_a_sealed_folder_cannot_be_changed_by_anybody(tmp_path: Path):
    model = make_model(tmp_path / "m")
    with open_verified(model, PUBLIC) as opened, sealed_folder(opened, lambda name: True) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        copy = folder / "model.safetensors"
        assert copy.read_bytes() == (model / "model.safetensors").read_bytes()
        for mode in ("r+b", "wb", "ab"):
            with pytest.raises(PermissionError):
                overwrite(copy, mode)
        assert copy.read_bytes() == (model / "model.safetensors").read_bytes()
    assert not folder.exists()


def llama(folder: Path, shard_size: str = "10GB"):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra: hf)")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    network = transformers.LlamaForCausalLM(config).eval()
    network.save_pretrained(folder, max_shard_size=shard_size)
    sign_manifest(folder)
    return network


@pytest.mark.parametrize("shard_size", ["10GB", "20KB"], ids=["one file", "shards"])
def test_from_pretrained_gives_the_same_network(tmp_path: Path, shard_size: str):
    peer = llama(tmp_path / "m", shard_size)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) == 1 or shard_size == "20KB"
    network = from_pretrained("AutoModelForCausalLM", tmp_path / "m", trust=PUBLIC)
    assert type(network) is type(peer)
    ids = torch.arange(8)[None]
    assert torch.equal(network(ids).logits, peer(ids).logits)


def test_from_pretrained_reads_no_byte_that_is_not_signed(tmp_path: Path):
    llama(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1.0}))
    with pytest.raises(DigestMismatch, match=r"config\.json"):
        from_pretrained("AutoModelForCausalLM", tmp_path / "m", trust=PUBLIC)


@pytest.mark.parametrize(
    "option",
    [
        {"trust_remote_code": True},
        {"local_files_only": False},
        {"revision": "x"},
        {"gguf_file": "x"},
        {"subfolder": "x"},
        {"use_kernels": True},
        {"attn_implementation": "somebody/kernel"},
    ],
    ids=str,
)
def test_options_that_would_bring_in_unsigned_bytes_are_refused(tmp_path: Path, option: dict):
    llama(tmp_path / "m")
    with pytest.raises(InvalidConfig):
        from_pretrained("AutoModelForCausalLM", tmp_path / "m", trust=PUBLIC, **option)


def test_signed_pickles_alone_adapters_and_unknown_classes_are_refused(tmp_path: Path):
    network = llama(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "m" / "pytorch_model.bin")
    sign_manifest(tmp_path / "m")
    with pytest.raises(RecordMissing, match="safetensors"):
        from_pretrained("AutoModelForCausalLM", tmp_path / "m", trust=PUBLIC)
    (tmp_path / "m" / "adapter_config.json").write_text("{}")
    sign_manifest(tmp_path / "m")
    with pytest.raises(InvalidConfig, match="adapter"):
        from_pretrained("AutoModelForCausalLM", tmp_path / "m", trust=PUBLIC)
    with pytest.raises(UnknownName):
        from_pretrained("os", tmp_path / "m", trust=PUBLIC)


def test_code_of_the_model_never_runs_even_if_it_is_signed(tmp_path: Path):
    peer, mark = llama(tmp_path / "m"), tmp_path / "ran"
    (tmp_path / "m" / "modeling_own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.Own", "AutoConfig": "modeling_own.Own"}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    sign_manifest(tmp_path / "m")
    network = from_pretrained("AutoModelForCausalLM", tmp_path / "m", trust=PUBLIC)
    assert type(network) is type(peer)
    assert not mark.exists()
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"model_type": "own"}))
    sign_manifest(tmp_path / "m")
    with pytest.raises(ValueError, match=r"custom code|trust_remote_code"):  # the refusal of the library itself
        from_pretrained("AutoModelForCausalLM", tmp_path / "m", trust=PUBLIC)
    assert not mark.exists()


def test_from_pretrained_asks_nothing_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    llama(tmp_path / "m")
    asked: list[object] = []

    def refuse(*arguments: object, **options: object) -> None:
        asked.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    from_pretrained("AutoModelForCausalLM", tmp_path / "m", trust=PUBLIC)
    assert not asked


def test_a_configuration_alone(tmp_path: Path):
    llama(tmp_path / "m")
    assert from_pretrained("AutoConfig", tmp_path / "m", trust=PUBLIC).vocab_size == 64
