"""Range guards and row checksums on the linear layers of a ViT-L block, against the block without them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks import _gpu
from holdfast.hardening import RangeGuard
from holdfast.hardening.guards.checksum_linear import LinearCheck
from holdfast.hardening.guards.checksum_sums import Sums
from holdfast.seeds import derive

BATCH, TOKENS, WIDTH, HEADS = 32, 197, 1024, 16
FALSE_ALARMS = 1e-9


def measure(
    device: torch.device, batch: int = BATCH, tokens: int = TOKENS, width: int = WIDTH, heads: int = HEADS
) -> _gpu.DeviceResult:
    """Time one block plain, with a range guard at each linear output, and with a row checksum there; bf16."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, activation="gelu", batch_first=True, norm_first=True
        )
    block = block.to(device, torch.bfloat16).eval()
    generator = torch.Generator(device).manual_seed(derive(0, "gpu-guards").words()[1] >> 1)
    x = torch.randn(batch, tokens, width, device=device, generator=generator).to(torch.bfloat16)
    linears = [block.linear1, block.linear2]

    def plain() -> Tensor:
        return block(x)

    with torch.no_grad():
        torch.backends.mha.set_fastpath_enabled(False)  # it would go past the hooks
        limit = _gpu.milliseconds(plain)
        ranges = _hooked(linears, [_range_hook() for _ in linears], plain)
        sums = _hooked(linears, [_sums_hook(layer) for layer in linears], plain)
    cases = [_gpu.row(name, times, limit, count=x.nbytes) for name, times in (("ranges", ranges), ("checksums", sums))]
    result = _gpu.summarise("range guards at a ViT-L block's MLP", ranges, limit, cases)
    return _gpu.DeviceResult(**(vars(result) | {"peer_name": "the block without guards"}))


def _hooked(layers: list[nn.Linear], hooks: list[object], call: object) -> list[float]:
    handles = [layer.register_forward_hook(hook) for layer, hook in zip(layers, hooks, strict=True)]
    times = _gpu.milliseconds(call)
    for handle in handles:
        handle.remove()
    return times


def _range_hook() -> object:
    guard = RangeGuard("linear", -1e3, 1e3)
    return lambda module, inputs, output: guard(output)


def _sums_hook(layer: nn.Linear) -> object:
    check = LinearCheck(Sums.of(layer.weight, layer.bias), layer.weight, layer.bias, FALSE_ALARMS)

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if len(check.wrong(inputs[0], output)):
            raise SystemExit("clean rows were taken for wrong: nothing to time")

    return hook


if __name__ == "__main__":
    _gpu.main(measure)
