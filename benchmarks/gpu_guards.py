"""Range guards and checksums on a whole ViT-L, against the ViT-L without them; random weights, bf16, batches of 32.

Range guards stand at the end of both branches of every block and at the logits. Checksums stand at every linear layer,
in three ways: read after the product and only counted, read and waited for, and summed by the kernel that multiplies.
"""

from __future__ import annotations

import statistics

import torch
from torch import Tensor, nn

from benchmarks import _gpu
from benchmarks._transformers import Transformer
from benchmarks.gpu_campaign import VIT_L
from holdfast.hardening import RangeGuard, harden
from holdfast.hardening.guards.checksum_fused import fused_products
from holdfast.hardening.guards.checksum_method import Checksums
from holdfast.models import attach_guard, card
from holdfast.seeds import derive

BATCH = 32
FALSE_ALARMS = 1e-9


def measure(device: torch.device, shape: dict[str, int] = VIT_L, batch: int = BATCH) -> _gpu.DeviceResult:
    """Time the plain network and each way of guarding it; range guards are the claim."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = Transformer(**shape).eval().requires_grad_(False).to(device, dtype)
    generator = torch.Generator(device).manual_seed(derive(0, "gpu-guards").words()[1] >> 1)
    x = torch.randn(batch, 3, shape["image"], shape["image"], device=device, generator=generator).to(dtype)
    linears = tuple(name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        limit = _gpu.milliseconds(lambda: model(x))
        times = {"checksums, counted": _timed(_checked(model, linears, "detect"), x)}
        times["checksums, waited for"] = _timed(_checked(model, linears, "refuse"), x)
        with fused_products(fused := _checked(model, linears, "detect")):
            times["checksums, in the product"] = _timed(fused, x)
        for name in linears:
            if name.endswith(("proj", "fc2", "head")):
                attach_guard(model, RangeGuard(name, -1e4, 1e4))
        times["ranges"] = _timed(model, x)
    cases = [
        _gpu.row(name, found, limit, count=x.nbytes)
        | {"share": statistics.median(found) / statistics.median(limit) - 1}
        for name, found in times.items()
    ]
    result = _gpu.summarise("range guards at all branches of a ViT-L", times["ranges"], limit, cases)
    return _gpu.DeviceResult(**(vars(result) | {"peer_name": "the ViT-L without guards"}))


def _checked(model: nn.Module, linears: tuple[str, ...], action: str) -> nn.Module:
    return harden(model, Checksums(sites=linears, action=action, false_alarms=FALSE_ALARMS))


def _timed(model: nn.Module, x: Tensor) -> list[float]:
    found = _gpu.milliseconds(lambda: model(x))
    for guard in card(model).guards:
        alarms = getattr(guard, "alarms", None)
        if guard.events is None or int(guard.events.sum()) or (alarms is not None and int(alarms.sum())):
            raise SystemExit(f"{guard.site} was not seen, or taken for wrong: nothing to time")
    return found


if __name__ == "__main__":
    _gpu.main(measure)
