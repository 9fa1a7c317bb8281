"""TSQP's integrity monitor as published, ways to tell its probes from real messages, and Freivalds on the same lies.

The monitor (IEEE S&P 2025; as in its release): fingerprints are whole numbers drawn from Normal(mean / 2, deviation /
sqrt 2), where real inputs are taken to be uniform over 0 .. 126; the products with a small pool of them are computed
beforehand; a probe is the sum of two, and its answer must be the sum of the two products. User queries are never
checked. SOTER's probes (USENIX ATC 2022) are fresh linear combinations instead.

A worker who tells probes from queries answers the former honestly and lies about the latter. It can, from unlabelled
messages alone: by codes that real inputs do not have, by probes that lie close to each other, or by rank, since all
probes lie in the span of the pool (Saini, Jiang & Liu, arXiv 2602.11088). Nothing in Holdfast uses this monitor; it
stands here to be measured beside :class:`~holdfast.shielding.Freivalds`, which checks every answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.execution.statistics import MeanEstimate, Proportion
from holdfast.seeds import Entropy, derive
from holdfast.shielding.checking import Freivalds
from holdfast.shielding.integer import IntegerLayer
from holdfast.shielding.product import ring_product

TOP = 126  # real codes are modelled as uniform over 0 .. TOP
Combine = Literal["sum", "combination"]


@dataclass(frozen=True, slots=True)
class Probe:
    """A challenge.

    Attributes:
        message: int32, shape (*sample,); what the worker is sent.
        expected: int32, shape (*output,).
    """

    message: Tensor
    expected: Tensor


class Monitor:
    """Probes for one layer from a pool of fingerprints.

    Args:
        layer: what the worker computes.
        pool: fingerprints; their products are computed here.
        combine: ``sum`` of two as TSQP has it, or SOTER's ``combination`` of all, with small whole coefficients.
        mean, deviation: of real codes; by default those of the uniform law that the release assumes.

    Raises:
        InvalidConfig: a pool of less than two.
    """

    def __init__(
        self,
        layer: IntegerLayer,
        generator: np.random.Generator,
        *,
        pool: int = 16,
        combine: Combine = "sum",
        mean: float = TOP / 2,
        deviation: float = math.sqrt(((TOP + 1) ** 2 - 1) / 12),
    ) -> None:
        if pool < 2 or combine not in ("sum", "combination"):
            raise InvalidConfig("a pool holds two fingerprints or more; probes are a sum or a combination of them")
        self._combine = combine
        drawn = np.trunc(generator.normal(mean / 2, deviation / math.sqrt(2), (pool, *layer.sample_shape)))
        self.fingerprints = torch.from_numpy(drawn.astype(np.int32))
        self.products = ring_product(self.fingerprints, layer.codes, layer.geometry)

    def probe(self, generator: np.random.Generator) -> Probe:
        """Return a challenge with its answer."""
        count = len(self.fingerprints)
        if self._combine == "sum":
            first, second = generator.choice(count, 2, replace=False)
            chosen = torch.zeros(count, dtype=torch.int32)
            chosen[[int(first), int(second)]] = 1
        else:
            chosen = torch.from_numpy(generator.integers(-2, 3, count).astype(np.int32))
        message, expected = (_weighted(chosen, part) for part in (self.fingerprints, self.products))
        return Probe(message, expected)

    @staticmethod
    def accepts(probe: Probe, answer: Tensor) -> bool:
        """Say whether ``answer`` is the expected one, exactly."""
        return torch.equal(probe.expected, answer)


def _weighted(chosen: Tensor, parts: Tensor) -> Tensor:
    return (chosen.view(-1, *[1] * (parts.dim() - 1)) * parts).sum(0, dtype=torch.int32)


class Distinguisher(Protocol):
    """Tells probes from queries by looking at messages; nobody labels them."""

    def suspects(self, messages: Tensor) -> Tensor:
        """Return which of int32 ``messages`` (n, *sample) are taken to be probes, bool (n,)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfRange:
    """A message with a code below ``low`` or above ``high`` is a probe: real inputs have none."""

    low: int = 0
    high: int = TOP + 1

    def suspects(self, messages: Tensor) -> Tensor:
        """Return the messages with such a code."""
        flat = messages.flatten(1)
        return (flat.amin(1) < self.low) | (flat.amax(1) > self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """Probes that share fingerprints lie close together; real inputs do not. Split at the widest gap (Otsu, 1979)."""

    def suspects(self, messages: Tensor) -> Tensor:
        """Return the messages of the group with the smaller distances to their nearest neighbours."""
        flat = messages.flatten(1).double()
        norms = flat.norm(dim=1, keepdim=True).clamp(min=1e-9)
        apart = torch.cdist(flat / norms, flat / norms).fill_diagonal_(math.inf)
        nearest = apart.amin(1)
        return nearest <= _otsu(nearest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subspace:
    """All probes lie in the span of the pool: once more are seen than it has dimensions, they depend on each other.

    Real inputs are independent as long as a message has more elements than there are messages. A message takes part in
    a dependency exactly if the left null space of the messages has weight on it.
    """

    tolerance: float = 1e-8

    def suspects(self, messages: Tensor) -> Tensor:
        """Return the messages that depend on others.

        Raises:
            InvalidConfig: more messages than elements each, where everything depends on everything.
        """
        flat = messages.flatten(1).double()
        if len(flat) > flat.shape[1]:
            raise InvalidConfig(
                f"{len(flat)} messages of {flat.shape[1]} elements depend on each other anyway",
                hint="look at fewer messages, or at a wider layer",
            )
        flat = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-9)
        values, vectors = torch.linalg.eigh(flat @ flat.T)
        null = vectors[:, values < self.tolerance]
        dependent: Tensor = null.norm(dim=1) > math.sqrt(self.tolerance)
        return dependent


def _otsu(values: Tensor) -> float:
    """Return the threshold that parts ``values`` (n,) into the two groups furthest apart for their spread."""
    ordered = values.sort().values
    counts = torch.arange(1, len(ordered), dtype=torch.float64)
    sums = ordered.cumsum(0)
    low, high = sums[:-1] / counts, (sums[-1] - sums[:-1]) / (len(ordered) - counts)
    between = counts * (len(ordered) - counts) * (high - low).square()
    return float(ordered[int(between.argmax())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """A worker that lies about everything it takes for a query.

    Attributes:
        lies: answers about real queries that were wrong.
        told_apart: messages whose kind the worker guessed right.
        probes: sessions in which the monitor noticed anything.
        before: lies believed before the monitor noticed, Student's interval over sessions; all, where it never did.
        freivalds: lies that Freivalds' check refused.
        honest: honest answers that it accepted.
    """

    lies: int
    told_apart: Proportion
    probes: Proportion
    before: MeanEstimate
    freivalds: Proportion
    honest: Proportion


def duel(
    layer: IntegerLayer,
    queries: Tensor,
    distinguisher: Distinguisher | None,
    *,
    sessions: int = 20,
    share: float = 0.5,
    pool: int = 16,
    combine: Combine = "sum",
    seed: int = 0,
) -> Duel:
    """Let a worker lie under the monitor, and hold the same lies against Freivalds' check.

    Args:
        queries: int8 codes of real inputs of the layer, (n, *sample); each session is about all of them.
        distinguisher: how the worker tells probes; None lies about every message.
        sessions: with a fresh pool each.
        share: of probes among the messages.

    Raises:
        InvalidConfig: no session, no query, or a share outside 0 .. 1.
    """
    if sessions < 1 or len(queries) < 1 or not 0 < share < 1:
        raise InvalidConfig("a duel needs sessions and queries, and a share of probes between 0 and 1")
    found = [_session(layer, queries, distinguisher, share, pool, combine, seed, turn) for turn in range(sessions)]
    lies, right, messages, caught, before, refused, honest, accepted = (
        [row[column] for row in found] for column in range(8)
    )
    return Duel(
        lies=sum(lies),
        told_apart=Proportion.wilson(sum(right), sum(messages)),
        probes=Proportion.wilson(sum(caught), sessions),
        before=MeanEstimate.student_t(before, least=0.0, most=len(queries)),
        freivalds=Proportion.wilson(sum(refused), sum(lies)),
        honest=Proportion.wilson(sum(accepted), sum(honest)),
    )


def _session(
    layer: IntegerLayer, queries: Tensor, distinguisher: Distinguisher | None, share: float, pool: int,
    combine: Combine, seed: int, turn: int,
) -> tuple[int, int, int, int, int, int, int, int]:  # fmt: skip
    generator = derive(seed, "duel", turn).numpy()
    monitor = Monitor(layer, generator, pool=pool, combine=combine)
    probes = [monitor.probe(generator) for _ in range(max(1, round(len(queries) * share / (1 - share))))]
    messages = torch.cat([queries.to(torch.int32), torch.stack([probe.message for probe in probes])])
    order = torch.from_numpy(generator.permutation(len(messages)))
    is_probe = order >= len(queries)
    suspected = torch.zeros(len(order), dtype=torch.bool)
    if distinguisher is not None:
        suspected = distinguisher.suspects(messages[order])
    lied = ~suspected
    noticed = lied & is_probe  # an answer that is not the sum of the products is never equal to it
    first = int(noticed.nonzero()[0]) if bool(noticed.any()) else len(order)
    told = order[lied & ~is_probe]
    refused, accepted = _freivalds(layer, queries, told, generator)
    believed = int((lied & ~is_probe)[:first].sum())
    right = int((suspected == is_probe).sum()) if distinguisher is not None else int((~is_probe).sum())
    return len(told), right, len(order), int(bool(noticed.any())), believed, refused, len(queries), accepted


def _freivalds(layer: IntegerLayer, queries: Tensor, told: Tensor, generator: np.random.Generator) -> tuple[int, int]:
    """Return how many of the lies about queries ``told`` are refused, and how many honest answers are accepted."""
    verifier = Freivalds().prepare(layer.codes, layer.geometry, Entropy())
    truth = layer.accumulate(queries)
    accepted = sum(verifier.accepts(queries[k : k + 1], truth[k : k + 1]) for k in range(len(queries)))
    refused = 0
    for k in told.tolist():
        lie = truth[k : k + 1].clone()
        lie.view(-1)[int(generator.integers(lie.numel()))] += 1
        refused += not verifier.accepts(queries[k : k + 1], lie)
    return refused, accepted
