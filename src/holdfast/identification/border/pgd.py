"""Border inputs as published: sign-PGD on a pair of platforms, or on one platform against all others.

HSPI-BI of *Hardware and Software Platform Inference* (Zhang et al., ICML 2025), section 3 and its code. Kept: the
objectives, the start, the schedule, the tries and the check of 8-bit images. Changed: preprocessing is inside the loop,
so pixels keep their whole range and the saved image is what was checked; the 1-vs-rest objective, which their code
names and does not run, runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.identification.border.asking import Oracle, in_full_batches
from holdfast.identification.border.found import Found
from holdfast.identification.border.gap import Answers
from holdfast.identification.border.lattice import Lattice
from holdfast.identification.border.oracle import Local
from holdfast.identification.border.setting import differentiable_here
from holdfast.seeds import Seed, derive

Net = Callable[[Tensor], Tensor]  # network inputs -> logits, differentiable in its inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class SignPGD:
    """Projected gradient *ascent* with the sign of the gradient, on batches of source images.

    One against one, with labels p1 and p2 of this step: J = CE(l1, p2) + CE(l2, p1), which leads both nets to the
    nearest boundary while they agree and further apart once they do not. One against the rest, with the source label
    y: J = sum over the rest CE(l_r, y) - ``scale`` * CE(l_t, y).

    Args:
        iterations: steps of one try (their N).
        tries: batches of source images.
        batch: images that are changed side by side; 1 is their single-image mode.
        start: step size of the first steps, in units of the pixel range.
        end: step size that the linear schedule goes towards; the last step is taken one N-th before it.
        noise: half the width of the uniform noise added to the source images.
        check_every: steps between two checks of 8-bit images, or their share of all steps if below 1; only at the end
            if None.
        objective: ``one-vs-one`` or ``one-vs-rest``.
        scale: weight of the one platform in ``one-vs-rest``.
    """

    iterations: int = 400
    tries: int = 80
    batch: int = 32
    start: float = 1e-3
    end: float = 1e-4
    noise: float = 0.01
    check_every: float | None = None
    objective: Literal["one-vs-one", "one-vs-rest"] = "one-vs-one"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if min(self.iterations, self.tries, self.batch) < 1 or not min(self.start, self.end) > 0 or self.noise < 0:
            raise InvalidConfig("sign-PGD makes at least one step of positive size on at least one image")
        if self.check_every is not None and not self.check_every > 0:
            raise InvalidConfig(f"checks every {self.check_every} steps never happen", hint="leave it out: at the end")
        if self.objective not in ("one-vs-one", "one-vs-rest"):
            raise InvalidConfig(f"no objective {self.objective!r}", hint="one-vs-one or one-vs-rest")

    def step_size(self, step: int) -> float:
        """Return the size of step 0, 1, ...: the published schedule sets it after a step, so 0 and 1 share theirs."""
        return self.start + (self.end - self.start) * max(0, step - 1) / self.iterations

    @property
    def period(self) -> int:
        """Steps between checks."""
        if self.check_every is None:
            return self.iterations
        return math.ceil(self.check_every * self.iterations) if self.check_every < 1 else int(self.check_every)

    def search(self, oracles: Sequence[Oracle], model: nn.Module, data: Dataset, seed: Seed | int) -> Iterator[Found]:
        """Yield the border inputs of each try; a pair is done, as published, with the first try that has any.

        A platform without gradients, in another process or behind a service, counts as a constant in J, as the far
        machine does in the published protocol of two; if none has any, ``model`` stands for the first.
        """
        oracles = oracles[:2] if self.objective == "one-vs-one" else oracles
        nets = [differentiable(oracle) for oracle in oracles]
        nets[0] = model if all(net is None for net in nets) else nets[0]
        lattice = Lattice.of(data)
        asked = 0
        for number in range(self.tries):
            generator = derive(seed, "border", "pgd", number).numpy()
            chosen = torch.from_numpy(generator.choice(len(data), self.batch, replace=self.batch > len(data)))
            noise = torch.from_numpy(generator.uniform(-self.noise, self.noise, data.raw[chosen].shape)).float()
            levels = (data.raw[chosen].float() / lattice.top + noise).clamp(0, 1)
            for step in range(self.iterations):
                labels = data.labels[chosen]
                levels = self._stepped(levels, oracles, nets, labels, lattice, self.step_size(step))
                asked += len(levels)
                if (step + 1) % self.period and step + 1 < self.iterations:
                    continue
                found = list(_border_among(levels, oracles, lattice, asked))
                yield from found
                if found:
                    return

    def _stepped(
        self,
        levels: Tensor,
        oracles: Sequence[Oracle],
        nets: Sequence[Net | None],
        sources: Tensor,
        lattice: Lattice,
        size: float,
    ) -> Tensor:
        levels = levels.detach().requires_grad_()
        with torch.enable_grad():
            inputs = lattice.inputs(levels * lattice.top)
            outputs = [
                _rounded(oracle, levels, lattice) if net is None else net(inputs)
                for oracle, net in zip(oracles, nets, strict=True)
            ]
            gain = self._gain(outputs, sources)
            (slope,) = torch.autograd.grad(gain, levels)
        return (levels + size * slope.sign()).clamp(0, 1).detach()

    def _gain(self, outputs: Sequence[Tensor], sources: Tensor) -> Tensor:
        if self.objective == "one-vs-one":
            return one_vs_one(outputs[0], outputs[1])
        return one_vs_rest(outputs[0], outputs[1:], sources, self.scale)


def one_vs_one(first: Tensor, second: Tensor) -> Tensor:
    """Return J = CE(l1, p2) + CE(l2, p1) of logits (n, classes), averaged over images."""
    return F.cross_entropy(first, second.argmax(1)) + F.cross_entropy(second, first.argmax(1))


def one_vs_rest(target: Tensor, rest: Sequence[Tensor], labels: Tensor, scale: float) -> Tensor:
    """Return J = sum_r CE(l_r, y) - scale * CE(l_t, y): the rest leave label y (n,), the target keeps it.

    Where images have no label (-1), y is what the target says now.
    """
    wanted = torch.where(labels < 0, target.argmax(1), labels)
    others = torch.stack([F.cross_entropy(item, wanted) for item in rest]).sum()
    return others - scale * F.cross_entropy(target, wanted)


def differentiable(oracle: Oracle) -> Net | None:
    """Return the net of a local platform with its gradients; None for one that is elsewhere, in its own
    process, or has none."""
    if not isinstance(oracle, Local) or oracle.worker is not None or not differentiable_here(oracle.platform):
        return None
    return oracle.net


def _rounded(oracle: Oracle, levels: Tensor, lattice: Lattice) -> Tensor:
    """Ask a platform without gradients about the stored form of images."""
    images = (levels.detach() * lattice.top).round().to(torch.uint8)
    return in_full_batches(oracle, images, images)


def _border_among(levels: Tensor, oracles: Sequence[Oracle], lattice: Lattice, asked: int) -> Iterator[Found]:
    """Yield the 8-bit images that the first platform labels unlike every other."""
    images = (levels * lattice.top).round().to(torch.uint8)
    first, *rest = (in_full_batches(oracle, images, images) for oracle in oracles)
    answers = [Answers(first, other) for other in rest]
    border = torch.stack([item.is_border() for item in answers]).all(0)
    margin = torch.stack([item.margin for item in answers]).min(0).values
    for place in border.nonzero().flatten().tolist():
        labels = int(first[place].argmax()), int(rest[0][place].argmax())
        yield Found(images[place], labels, float(margin[place]), asked, len(rest))
