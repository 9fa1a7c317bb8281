"""The resident audit: a flipped bit is found, named, mended, and written down; a network with one never answers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
from blake3 import blake3
from torch import nn

from holdfast.errors import DigestMismatch, IntegrityError, InvalidConfig, UnreadableArtifact
from holdfast.evidence.model_manifest import TensorEntry
from holdfast.evidence.statement import Subject
from holdfast.models import build_architecture
from holdfast.models.tensors import resident_tensors, stored_tensors
from holdfast.quantization import quantize
from holdfast.signing.resident import Audit, drill, roots_of
from holdfast.signing.resident.roots import SLICE, octets

_WORDS = {torch.float32: "f32", torch.int64: "i64", torch.int8: "i8", torch.uint8: "u8", torch.float64: "f64"}


class Memory:
    """Good bytes of every tensor, as a verified store would return them."""

    def __init__(self, model: nn.Module) -> None:
        self.good = {name: bytes(octets(item).numpy().data) for name, item in stored_tensors(model).items()}

    def read(self, name: str) -> bytes:
        return self.good[name]

    def digest(self, name: str) -> str:
        return blake3(self.good[name]).hexdigest()

    def entries(self, model: nn.Module) -> list[TensorEntry]:
        return [
            TensorEntry(
                "m", name, _WORDS[item.dtype], tuple(item.shape), 0, item.nbytes, blake3(self.good[name]).hexdigest()
            )
            for name, item in resident_tensors(model).items()
        ]


@pytest.fixture(params=["float", "rquant8", "int4", "channels-last"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    net = build_architecture("digits-cnn").eval()
    if request.param == "channels-last":
        return net.to(memory_format=torch.channels_last)
    return net if request.param == "float" else quantize(net, request.param)


def _audit(model: nn.Module, **options) -> Audit:
    memory = Memory(model)
    return Audit(model, roots_of(model, memory.entries(model)), source=memory, **options)


def _flip(tensor: torch.Tensor, byte: int, bit: int) -> None:
    changed = octets(tensor).clone()
    changed[byte] ^= 1 << bit
    tensor.detach().copy_(changed.view(tensor.dtype).reshape(tensor.shape))


def _names(model: nn.Module) -> Iterator[str]:
    yield from resident_tensors(model)


def test_untouched_weights_give_no_incident(model: nn.Module) -> None:
    audit = _audit(model)
    assert audit.sweep().incidents == ()
    assert audit.sweeps[0].bytes == audit.bytes == sum(item.nbytes for item in resident_tensors(model).values())


def test_one_flipped_bit_of_any_tensor_is_found_named_and_mended(model: nn.Module) -> None:
    audit, before = _audit(model), {name: octets(item).clone() for name, item in resident_tensors(model).items()}
    for name, tensor in resident_tensors(model).items():
        _flip(tensor, tensor.nbytes // 2, 3)
        (incident,) = audit.sweep().incidents
        assert (incident.tensor, incident.bits, incident.repaired) == (name, 1, True)
        ((start, stop),) = incident.ranges
        assert start <= tensor.nbytes // 2 < stop
        assert stop - start <= 4096
        assert torch.equal(octets(resident_tensors(model)[name]), before[name])
    assert audit.sweep().incidents == ()


def test_a_flip_in_the_numbers_behind_the_codes_is_found_too() -> None:
    model = quantize(build_architecture("digits-cnn").eval(), "rquant8")
    audit, weight = _audit(model), next(model.parameters())
    good = weight.detach().clone()
    _flip(weight, 5, 6)
    (incident,) = audit.sweep().incidents
    assert (incident.tensor, incident.bits, incident.repaired) == (
        next(name for name, _ in model.named_parameters()),
        1,
        True,
    )
    assert torch.equal(weight, good)


def test_only_the_ranges_that_changed_are_named() -> None:
    model = nn.Linear(2048, 2048)
    audit = _audit(model)
    for byte in (0, 4095, 4096, 9_000_000):
        _flip(model.weight, byte, 0)
    (incident,) = audit.sweep().incidents
    assert model.weight.nbytes > SLICE
    assert incident.ranges == ((0, 8192), (8_998_912, 9_003_008))
    assert incident.bits == 4


def test_without_a_source_the_network_stops_answering() -> None:
    model = nn.Linear(4, 4)
    memory = Memory(model)
    with Audit(model, roots_of(model, memory.entries(model)), budget=1e9) as audit:
        model(torch.ones(1, 4))
        _flip(model.weight, 0, 7)
        _wait(lambda: bool(audit.incidents))
        with pytest.raises(IntegrityError, match="weight"):
            model(torch.ones(1, 4))
        assert not audit.incidents[0].repaired
    model(torch.ones(1, 4))  # the guard goes with the audit


def test_a_source_that_lies_mends_nothing() -> None:
    model = nn.Linear(4, 4)
    memory = Memory(model)
    roots = roots_of(model, memory.entries(model))
    memory.good["weight"] = bytes(64)
    _flip(model.weight, 0, 7)
    with pytest.raises(IntegrityError, match="source"):
        _serve_until_it_fails(Audit(model, roots, source=memory))


def _serve_until_it_fails(audit: Audit) -> None:
    with audit:
        _wait(lambda: not audit.running)
        with pytest.raises(IntegrityError, match="signed"):
            audit.model(torch.ones(1, 4))


def test_a_drill_measures_latencies_within_a_sweep_or_two() -> None:
    model = nn.Linear(256, 256)
    with _audit(model, budget=2e6) as audit:
        found = drill(audit, 5, seed=1)
        assert audit.period == pytest.approx(audit.bytes / 2e6)
    assert len(found.latencies) == 5
    assert 0 < found.mean <= found.worst < 20 * audit.period
    assert [item.bits for item in audit.incidents] == [1] * 5
    assert _audit(model).sweep().incidents == ()


def test_a_budget_bounds_the_bytes_per_second() -> None:
    model = nn.Linear(512, 512)
    sweep = _audit(model, budget=4e6).sweep()
    assert sweep.bytes / sweep.seconds <= 4.2e6


def test_a_stopped_audit_stops_at_once() -> None:
    begun = time.monotonic()
    with _audit(nn.Linear(1024, 1024), budget=1e5):
        pass
    assert time.monotonic() - begun < 5


def test_the_incident_is_a_record_with_its_latency(model: nn.Module) -> None:
    audit = _audit(model)
    name, tensor = next(iter(resident_tensors(model).items()))
    audit.sweep()
    _flip(tensor, 0, 0)
    (incident,) = audit.sweep().incidents
    record = incident.to_record(Subject("m", {"blake3": "ab" * 32}), {"type": "resident-audit", "version": 1}, {})
    assert record.kind == "integrity-incident"
    assert record.facts["tensor"] == name
    assert record.measured["detection-latency"].value == incident.latency > 0


def test_a_model_that_is_not_the_signed_one_is_refused_before_any_byte_is_read() -> None:
    model, memory = nn.Linear(4, 4), Memory(nn.Linear(4, 4))
    entries = memory.entries(model)
    for wrong in (entries[:1], [*entries, TensorEntry("m", "more", "f32", (), 0, 4, "0" * 64)]):
        with pytest.raises(DigestMismatch, match="only"):
            roots_of(model, wrong)
    with pytest.raises(DigestMismatch, match="f64"):
        roots_of(nn.Linear(4, 4).double(), entries)
    with pytest.raises(DigestMismatch, match="in memory"):
        roots_of(nn.Linear(4, 8), entries)
    for nothing in ([], entries * 2):
        with pytest.raises(UnreadableArtifact):
            roots_of(model, nothing)
    with pytest.raises(InvalidConfig, match="budget"):
        Audit(model, roots_of(model, entries), budget=0)


def _wait(condition) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    pytest.fail("waited in vain")
