"""The cost of one activation fault: a whole campaign of ours against one hooked inference per fault.

The peer is PyTorchFI's neuron injection where it is installed (it sets a value at the same place instead of flipping a
bit), otherwise the plain loop that it boils down to: a forward hook that flips the bit, and one forward pass of one
image for each fault. Ours also plans, traces the sites, runs the golden passes and classifies; the peer is given the
same trials and its golden outputs in advance.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import _harness
from holdfast.data import Dataset, dataset
from holdfast.execution import Population, campaign
from holdfast.execution.plan import Trial, draw_trials
from holdfast.faults import BitFlip
from holdfast.models import build_architecture, select
from holdfast.numerics import bits

TRIALS = 512
AT = "activations:conv*,activations:norm*"  # module outputs: what hooks alone can reach


def measure() -> _harness.Result:
    """Time a whole campaign (plan, golden runs, classification) against a loop of hooked inferences."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, data = build_architecture("digits-cnn").eval(), dataset("digits", split="test")
    population = Population(select(model, AT, data.example))
    trials = draw_trials(BitFlip(), population, len(data), TRIALS, 0)
    with torch.no_grad():
        golden = {trial.input: model(_image(data, trial)) for trial in trials}
    peer, name = _peer(model, data, trials, golden)
    pairs = _harness.paired(lambda: campaign(model, data, BitFlip(), at=AT, trials=TRIALS, seed=0), peer, repeats=9)
    per_fault = [(ours / TRIALS * 1e3, theirs / TRIALS * 1e3) for ours, theirs in pairs]
    return _harness.summarise(
        f"{TRIALS} activation faults cost less in a campaign than one hooked inference for each",
        per_fault,
        peer_name=name,
        unit="CPU-ms per fault",
    )


def _peer(
    model: nn.Module, data: Dataset, trials: list[Trial], golden: dict[int, Tensor]
) -> tuple[Callable[[], object], str]:
    try:
        from pytorchfi.core import fault_injection
    except ImportError:
        return lambda: [_hooked(model, data, trial, golden) for trial in trials], "hook per inference"
    layers = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    injector = fault_injection(model, 1, input_shape=[1, 8, 8], layer_types=[nn.Conv2d, nn.BatchNorm2d], use_cuda=False)
    return lambda: [_injected(injector, layers, data, trial, golden) for trial in trials], "pytorchfi"


def _injected(injector: object, layers: list[str], data: Dataset, trial: Trial, golden: dict[int, Tensor]) -> bool:
    site, element, _ = trial.address
    shape = trial.flips[0].site.shape
    channel, height, width = (int(axis) for axis in torch.unravel_index(torch.tensor(element), shape))
    faulty = injector.declare_neuron_fi(  # type: ignore[attr-defined]
        batch=[0],
        layer_num=[layers.index(site.partition(":")[2])],
        dim1=[channel],
        dim2=[height],
        dim3=[width],
        value=[1e4],
    )
    with torch.no_grad():
        return torch.equal(faulty(_image(data, trial)), golden[trial.input])


def _hooked(model: nn.Module, data: Dataset, trial: Trial, golden: dict[int, Tensor]) -> bool:
    flip = trial.flips[0]

    def hook(_: nn.Module, __: object, output: Tensor) -> None:
        bits.xor_(output, flip.index, flip.mask)

    handle = model.get_submodule(flip.site.name).register_forward_hook(hook)
    try:
        with torch.no_grad():
            return torch.equal(model(_image(data, trial)), golden[trial.input])
    finally:
        handle.remove()


def _image(data: Dataset, trial: Trial) -> Tensor:
    return data.batch(torch.tensor([trial.input]))[0]


if __name__ == "__main__":
    _harness.main(measure)
