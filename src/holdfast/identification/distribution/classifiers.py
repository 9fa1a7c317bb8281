"""What learns platforms from bits: one linear machine for each pair of classes, and a net of one hidden layer.

HSPI-LD (Zhang et al., ICML 2025, section 3.2). Everything a classifier learned is tensors, so that it is kept without
pickles. The mean and spread of features are those of the training examples alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast._registry import Registry
from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.execution.run import one_thread
from holdfast.identification.distribution.features import Bits
from holdfast.seeds import Seed, derive

Learned = Mapping[str, Tensor]
Numbers = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


class Classifier(Protocol):
    """Learns classes 0 .. n-1; a frozen dataclass of hyper-parameters."""

    def fit(self, bits: Bits, targets: Numbers, groups: Numbers, classes: int, seed: Seed) -> Learned:
        """Return what was learned from ``bits`` (n, features); examples of one ``groups`` number belong together."""
        ...

    def scores(self, learned: Learned, bits: Bits, classes: int) -> Scores:
        """Return a score (n, classes), the greatest of the class that is meant."""
        ...


classifiers: Registry[Classifier] = Registry("classifier", "holdfast.classifiers")


@classifiers.register("ovo-svm")
@dataclass(frozen=True, slots=True, kw_only=True)
class OneVsOneSVM:
    """Linear support vector machines, one for each pair of classes, that vote; ties go to the greater margins.

    L2 penalty and squared hinge, as published.

    Args:
        cost: C of the machines.
        iterations: at most; one that has not converged by then says so.
    """

    cost: float = 1.0
    iterations: int = 10_000

    def fit(self, bits: Bits, targets: Numbers, groups: Numbers, classes: int, seed: Seed) -> Learned:
        """Return ``mean``, ``spread`` (features), ``weight`` (pairs, features), ``bias`` and ``converged`` (pairs)."""
        mean, spread = _standard(bits)
        features = (bits - mean) / spread
        rows = []
        for first, second in combinations(range(classes), 2):
            chosen = (targets == first) | (targets == second)
            rows.append(self._machine(features[chosen], targets[chosen] == first, derive(seed, "svm", first, second)))
        weight, bias, converged = zip(*rows, strict=True)
        return {
            "mean": torch.from_numpy(mean),
            "spread": torch.from_numpy(spread),
            "weight": torch.from_numpy(np.stack(weight)),
            "bias": torch.tensor(bias, dtype=torch.float64),
            "converged": torch.tensor(converged),
        }

    def _machine(self, features: Scores, positive: npt.NDArray[np.bool_], seed: Seed) -> tuple[Scores, float, bool]:
        """Return weight (features), bias, and whether the solver converged.

        The weight is a sum of examples, so where they are fewer than features the machine learns in a basis of their
        span: the optimum is the same, and the cost falls with the number of features.
        """
        from sklearn.svm import LinearSVC

        basis = None
        if len(features) < features.shape[1]:
            left, sizes, basis = np.linalg.svd(features, full_matrices=False)
            features = left * sizes
        state = seed.words()[1] >> 33  # what the solver takes
        machine = LinearSVC(C=self.cost, dual="auto", max_iter=self.iterations, random_state=state)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            machine.fit(features, positive)
        weight = machine.coef_[0] if basis is None else machine.coef_[0] @ basis
        return weight, float(machine.intercept_[0]), not said

    def scores(self, learned: Learned, bits: Bits, classes: int) -> Scores:
        """Return votes, and below one vote the sum of squashed margins."""
        _require_shapes(learned, "weight", (classes * (classes - 1) // 2, bits.shape[1]))
        features = (bits - learned["mean"].numpy()) / learned["spread"].numpy()
        margins = features @ learned["weight"].numpy().T + learned["bias"].numpy()
        votes, sums = np.zeros((2, len(bits), classes))
        for column, (first, second) in enumerate(combinations(range(classes), 2)):
            margin = margins[:, column]
            votes[:, first] += margin > 0
            votes[:, second] += margin <= 0
            sums[:, first] += margin
            sums[:, second] -= margin
        return np.asarray(votes + sums / (3 * (np.abs(sums) + 1)))


@classifiers.register("mlp")
@dataclass(frozen=True, slots=True, kw_only=True)
class MultiLayerPerceptron:
    """Batch-norm, one hidden layer with ReLU, Adam with a falling step size, as published.

    Unlike there, the epoch is not chosen by the training score: a share of the training *groups* is kept apart for it.

    Args:
        hidden: width of the hidden layer (3000 there).
        epochs: at most.
        batch: examples of one step.
        rate: step size of the first epoch; each one after it takes ``decay`` of the one before.
        aside: share of the groups that choose the epoch.
    """

    hidden: int = 256
    epochs: int = 20
    batch: int = 32
    rate: float = 1e-3
    decay: float = 0.8
    aside: float = 0.2

    def __post_init__(self) -> None:
        if min(self.hidden, self.epochs, self.batch) < 1 or not 0 < self.aside < 1 or not self.rate > 0:
            raise InvalidConfig("a perceptron has hidden units, epochs, batches, a rate and a share of groups to ask")

    def fit(self, bits: Bits, targets: Numbers, groups: Numbers, classes: int, seed: Seed) -> Learned:
        """Return the parameters and statistics of the net at its best epoch."""
        ours, asked = self._parted(groups, seed)
        net = _net(bits.shape[1], self.hidden, classes, derive(seed, "initial"))
        x, y = torch.from_numpy(bits).float(), torch.from_numpy(targets)
        optimizer = torch.optim.Adam(net.parameters(), self.rate)
        best, kept = -1.0, _copied(net)
        with one_thread(), torch.enable_grad():
            for epoch in range(self.epochs):
                _epoch(net, optimizer, x, y, _batches(ours, self.batch, derive(seed, "order", epoch)))
                net.eval()
                with torch.no_grad():
                    right = float((net(x[asked]).argmax(1) == y[asked]).double().mean())
                if right > best:
                    best, kept = right, _copied(net)
                for group in optimizer.param_groups:
                    group["lr"] *= self.decay
        return kept

    def scores(self, learned: Learned, bits: Bits, classes: int) -> Scores:
        """Return logits."""
        _require_shapes(learned, "1.weight", (self.hidden, bits.shape[1]))
        _require_shapes(learned, "3.weight", (classes, self.hidden))
        net = _net(bits.shape[1], self.hidden, classes, derive(0))
        try:
            net.load_state_dict(dict(learned))
        except RuntimeError as error:
            raise UnreadableArtifact(f"the perceptron does not read: {error}") from error
        with one_thread(), torch.no_grad():
            return np.asarray(net.eval()(torch.from_numpy(bits).float()).double().numpy())

    def _parted(self, groups: Numbers, seed: Seed) -> tuple[Tensor, Tensor]:
        numbers = np.unique(groups)
        if len(numbers) < 2:
            raise InvalidConfig("one group of examples leaves nothing to choose the epoch by", hint="record more")
        count = min(max(1, round(self.aside * len(numbers))), len(numbers) - 1)
        chosen = np.isin(groups, derive(seed, "aside").numpy().permutation(numbers)[:count])
        return torch.from_numpy(np.flatnonzero(~chosen)), torch.from_numpy(np.flatnonzero(chosen))


def _standard(bits: Bits) -> tuple[Scores, Scores]:
    mean, spread = bits.mean(axis=0), bits.std(axis=0)
    return mean, np.where(spread > 0, spread, 1.0)


def _net(features: int, hidden: int, classes: int, seed: Seed) -> nn.Sequential:
    with torch.device("meta"):  # the layers' own initial values come from the global generator
        norm, layers = nn.BatchNorm1d(features), (nn.Linear(features, hidden), nn.Linear(hidden, classes))
        net = nn.Sequential(norm, layers[0], nn.ReLU(), layers[1])
    net.to_empty(device="cpu")
    norm.reset_parameters()
    generator = seed.torch()
    for layer in layers:
        bound = layer.in_features**-0.5
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return net


def _epoch(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, batches: list[Tensor]) -> None:
    net.train()
    for batch in batches:
        optimizer.zero_grad()
        F.cross_entropy(net(x[batch]), y[batch]).backward()
        optimizer.step()


def _batches(rows: Tensor, size: int, seed: Seed) -> list[Tensor]:
    """Return rows in random order in batches; a last batch of one, which batch-norm cannot take, is left out."""
    order = torch.from_numpy(seed.numpy().permutation(len(rows)))
    return [part for part in rows[order].split(size) if len(part) > 1]


def _copied(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def _require_shapes(learned: Learned, name: str, shape: tuple[int, ...]) -> None:
    if name not in learned:
        raise UnreadableArtifact(f"the classifier lacks the tensor {name}")
    if tuple(learned[name].shape) != shape:
        raise InvalidConfig(
            f"a classifier of shape {tuple(learned[name].shape)} does not fit examples of {shape}",
            hint="use as many inputs and outputs as in training",
        )
