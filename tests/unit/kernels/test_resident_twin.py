"""The resident audit digests weights on their own device: it finds there what it finds in host memory."""

from __future__ import annotations

import time

import pytest
import torch
from blake3 import blake3
from torch import nn

from holdfast._kernels import dispatch
from holdfast.evidence.model_manifest import TensorEntry
from holdfast.models.tensors import resident_tensors
from holdfast.signing.resident import Audit, roots_of


def audited(device: torch.device, **options: object) -> tuple[nn.Module, Audit]:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False)).to(device)
    with torch.no_grad():
        for item in model.parameters():
            item.copy_(torch.arange(item.numel()).view(item.shape) / 7)
    signed = [
        TensorEntry(
            "m", name, "f32", tuple(item.shape), 0, item.nbytes, blake3(item.cpu().numpy().tobytes()).hexdigest()
        )
        for name, item in resident_tensors(model).items()
    ]
    return model, Audit(model, roots_of(model, signed), **options)


def test_a_sweep_reads_no_byte_on_the_host_and_names_the_flipped_tensor(
    trusted: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, audit = audited(trusted)
    monkeypatch.setattr(audit, "_paced", lambda root: pytest.fail("bytes were copied to the host"))
    assert not audit.sweep().incidents
    with torch.no_grad():
        model[1].weight.view(torch.int32)[0, 1] ^= 1 << 30
    (incident,) = audit.sweep().incidents
    assert incident.tensor == "1.weight"
    assert not incident.repaired


def test_the_budget_holds_on_the_device(trusted: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    _, audit = audited(trusted, budget=100.0)  # bytes a second: 40 bytes take 0.4 seconds
    monkeypatch.setattr(dispatch, "digests", lambda tensors: [blake3(tensors[0].cpu().numpy().tobytes()).digest()])
    begun = time.monotonic()
    audit.sweep()
    assert time.monotonic() - begun >= 0.39
