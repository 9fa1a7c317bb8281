"""The twin's digests are used where they can be, the reference's elsewhere with a reason, and a wrong one never."""

from __future__ import annotations

import logging

import pytest
import torch
from blake3 import blake3
from torch import nn

import holdfast
from holdfast._kernels import device as devices
from holdfast._kernels import dispatch
from holdfast.errors import DigestMismatch, MissingDevice
from holdfast.evidence.digest import tensor_prefix
from holdfast.models import identity, manifest_of
from holdfast.signing import generate_key, require_threshold


def small_net(device: torch.device) -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval().to(device)
    with torch.no_grad():
        for number, item in enumerate(net.parameters()):
            item.copy_(torch.arange(item.numel()).view(item.shape) * 0.37 - number)
    return net


def test_a_manifest_is_the_same_whoever_digests(trusted: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    net = small_net(trusted)
    monkeypatch.setattr(identity, "tensor_digest", lambda *_: pytest.fail("a tensor was copied to the host"))
    there = manifest_of(net)
    monkeypatch.undo()
    assert there == manifest_of(small_net(torch.device("cpu")))
    assert len([leaf for leaf in there.leaves if leaf.kind == "tensor"]) == 7


def test_verify_reads_a_model_where_it_lies_and_finds_one_flipped_bit(trusted: torch.device) -> None:
    key = generate_key()
    public = require_threshold(key.public)
    net = small_net(torch.device("cpu"))
    bundle = holdfast.sign(net, key=key)
    net = net.to(trusted)
    assert holdfast.verify(net, bundle, trust=public).statement.subjects
    with torch.no_grad():
        net[0].weight.view(torch.int32)[1, 2] ^= 1
    with pytest.raises(DigestMismatch):
        holdfast.verify(net, bundle, trust=public)


def test_the_twin_is_tried_before_it_is_trusted(
    resident: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tensor = torch.arange(9, device=resident)

    def one_bit_off(tensors: list[torch.Tensor], prefixes: list[bytes], context: str | None) -> list[bytes]:
        rows = [blake3(item.cpu().numpy().tobytes()).digest() for item in tensors]
        return [*rows[:-1], bytes([rows[-1][0] ^ 1, *rows[-1][1:]])]

    monkeypatch.setattr(dispatch, "_rows", one_bit_off)
    with caplog.at_level(logging.WARNING):
        assert dispatch.digests([tensor]) == [None]
    assert "1 tensors are digested on the CPU: the twin's digests" in caplog.text


def test_without_memory_for_the_first_test_the_reference_works(
    resident: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def scarce(*_: object) -> list[bytes]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(dispatch, "_rows", scarce)
    assert dispatch.digests([torch.arange(9, device=resident)]) == [None]
    assert "has no memory left" in caplog.text


@pytest.mark.slow
def test_the_first_test_passes_here(resident: torch.device) -> None:
    assert dispatch._mistrust(resident) is None


def test_tensors_of_the_cpu_are_nobody_else_s(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert dispatch.digests([torch.zeros(3)]) == [None]
    assert not caplog.text


def test_what_does_not_lie_in_order_goes_to_the_reference_with_the_reason(
    trusted: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    turned, plain = torch.arange(12, device=trusted).view(3, 4).t(), torch.arange(3, device=trusted)
    assert dispatch.digests([turned, plain]) == [None, blake3(plain.cpu().numpy().tobytes()).digest()]
    assert "1 tensors are digested on the CPU: a tensor is not contiguous" in caplog.text


def test_memory_that_runs_out_halves_the_batch(
    trusted: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows, sizes = dispatch._rows, []

    def scarce(tensors: list[torch.Tensor], prefixes: list[bytes], context: str | None) -> object:
        sizes.append(len(tensors))
        if len(tensors) > 1 or tensors[0].numel() == 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows(tensors, prefixes, context)

    monkeypatch.setattr(dispatch, "_rows", scarce)
    tensors = [torch.arange(size, device=trusted) for size in (2, 7, 5)]
    found = dispatch.digests(tensors, [b"a", b"b", b"c"])
    expected = [
        blake3(key + item.cpu().numpy().tobytes()).digest()
        for key, item in zip([b"a", b"b", b"c"], tensors, strict=True)
    ]
    assert found == [expected[0], None, expected[2]]
    assert sizes == [3, 1, 2, 1, 1]
    assert "digest 3 tensors at once: 1 at a time" in caplog.text
    assert "1 tensor is digested on the CPU: the device has no memory" in caplog.text


def test_an_error_of_the_device_is_raised_once_and_clearly(
    trusted: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast._kernels.digest import Plan

    def fails(plan: Plan) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(Plan, "roots", fails)
    with pytest.raises(MissingDevice, match=r"failed while its memory was read: CUDA error: an illegal .*d$") as caught:
        manifest_of(small_net(trusted))
    assert "start a new process" in caught.value.hint


def test_a_kernel_that_does_not_compile_leaves_the_work_to_the_reference(
    trusted: torch.device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from triton.errors import TritonError

    from holdfast._kernels.digest import Plan

    def fails(plan: Plan) -> torch.Tensor:
        raise TritonError("out of resource: registers")

    expected = manifest_of(small_net(torch.device("cpu"))) if trusted.type != "cpu" else None
    monkeypatch.setattr(Plan, "roots", fails)
    found = manifest_of(small_net(trusted))
    assert "a kernel does not compile for " in caplog.text
    assert "out of resource: registers" in caplog.text
    caplog.clear()
    assert dispatch.digests([torch.arange(3, device=trusted)]) == [None]
    assert "1 tensors are digested on the CPU: a kernel does not compile" in caplog.text
    monkeypatch.undo()
    assert found == (expected or manifest_of(small_net(trusted)))


def test_a_gpu_too_old_and_triton_missing_are_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.chip_obstacle("Tesla V100", (7, 0)) == "Tesla V100 has compute capability 7.0, and Triton needs 8.0"
    assert devices.chip_obstacle("NVIDIA H200", (9, 0)) is None
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "AMD" in str(devices.chip_obstacle("MI300", (9, 4)))
    devices.device_obstacle.cache_clear()
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    assert devices.device_obstacle(torch.device("cuda", 7)) == "Triton is not installed"
    devices.device_obstacle.cache_clear()


def test_a_prefix_binds_every_field() -> None:
    assert tensor_prefix("ab", "c", (1,)) != tensor_prefix("a", "bc", (1,))
    assert tensor_prefix("a", "f", (2, 3)) != tensor_prefix("a", "f", (3, 2))
    assert tensor_prefix("a", "f", ()) == b"\1" + bytes(7) + b"a" + b"\1" + bytes(7) + b"f" + bytes(8)
