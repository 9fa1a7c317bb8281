"""Providers that do not run what they claim, and the test that catches them request by request.

A provider decides for each request which platform answers. The claim "platform A answers" predicts the bits of every
known probe; :class:`ClaimTest` collects evidence against it that may be looked at after every request.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.evidence.digest import digest_bytes
from holdfast.execution import Proportion
from holdfast.seeds import Seed, derive

_SHARES = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9])  # of wrong answers that a liar may give


class Provider(Protocol):
    """Decides who answers."""

    def platform(self, request: int, probe: int) -> str:
        """Return the platform that answers the ``request``-th request, which asks ``probe``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Honest:
    """Runs what it claims."""

    name: str

    def platform(self, request: int, probe: int) -> str:
        """Return the one platform."""
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedFleet:
    """Sends every request to a machine at random: an honest fleet of several kinds, or a dishonest one.

    Attributes:
        shares: platform to its share of requests; they add up to one.
        seed: of the choice.
    """

    shares: Mapping[str, float]
    seed: Seed | int = 0

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if min(self.shares.values(), default=-1.0) < 0 or not math.isclose(sum(self.shares.values()), 1.0):
            raise InvalidConfig(f"the shares of a fleet add up to one, unlike {dict(self.shares)}")

    def platform(self, request: int, probe: int) -> str:
        """Return a platform by chance."""
        drawn = derive(self.seed, "fleet", request).numpy().random()
        names = list(self.shares)
        place = int(np.searchsorted(np.cumsum(list(self.shares.values())), drawn, side="right"))
        return names[min(place, len(names) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedByPrompt:
    """Sends a prompt always to the same place, by a keyed hash: asking the same again shows nothing new.

    Attributes:
        claimed: what answers most prompts.
        actual: what answers the others.
        share: of prompts that go to ``actual``.
        seed: key of the hash.
    """

    claimed: str
    actual: str
    share: float
    seed: Seed | int = 0

    def platform(self, request: int, probe: int) -> str:
        """Return the platform of the prompt."""
        return self.actual if derive(self.seed, "route", probe).numpy().random() < self.share else self.claimed


@dataclass(frozen=True, slots=True, kw_only=True)
class Substitution:
    """Answers a share of requests, by chance, with something cheaper.

    Attributes:
        claimed: what the provider says it runs.
        actual: what answers the share.
        share: of requests.
        seed: of the choice.
    """

    claimed: str
    actual: str
    share: float
    seed: Seed | int = 0

    def platform(self, request: int, probe: int) -> str:
        """Return ``actual`` for a share of requests."""
        return self.actual if derive(self.seed, "request", request).numpy().random() < self.share else self.claimed


@dataclass(frozen=True, slots=True)
class Claim:
    """Where a test of a claim stands.

    Attributes:
        evidence: what a bet against the claim, begun with 1, has become.
        refuted: whether it passed 1 / error.
        requests: answers seen.
        strange: answers that none of the claimed platforms gives.
    """

    evidence: float
    refuted: bool
    requests: int
    strange: int

    @property
    def wrong(self) -> Proportion:
        """Share of strange answers (Clopper-Pearson)."""
        return Proportion.clopper_pearson(self.strange, self.requests)


class ClaimTest:
    """Tests "these platforms answer, and no other" with a bound on the chance of ever refuting a true claim.

    Under the claim an answer is none of theirs with probability at most ``flaw``. The evidence is the likelihood ratio
    of larger shares of wrong answers, averaged: a martingale at worst, so Ville's inequality bounds it at all times.

    Args:
        claimed: for each claimed platform the answer to every probe (digests of bits; see :func:`digests`).
        error: chance of ever refuting a true claim.
        flaw: chance that a claimed platform does not give its answer.

    Raises:
        InvalidConfig: no platform, or rates that leave nothing to bet on.
    """

    def __init__(self, claimed: Sequence[Sequence[Hashable]], *, error: float = 0.01, flaw: float = 1e-3) -> None:
        if not claimed or not 0 < error < 1 or not 0 < flaw < _SHARES.min():
            raise InvalidConfig(
                f"no claim to test with error {error} and flaw {flaw}", hint=f"flaw below {_SHARES.min():g}"
            )
        self._claimed, self.error, self.flaw = claimed, error, flaw
        self._nats = np.zeros(len(_SHARES))
        self._best, self._requests, self._wrong = 1.0, 0, 0

    def see(self, probe: int, answer: Hashable) -> Claim:
        """Take one answer; the same probe may be asked again."""
        wrong = all(row[probe] != answer for row in self._claimed)
        self._requests, self._wrong = self._requests + 1, self._wrong + wrong
        under = self.flaw if wrong else 1 - self.flaw
        self._nats += np.log((_SHARES if wrong else 1 - _SHARES) / under)
        evidence = float(np.exp(self._nats).mean())
        self._best = max(self._best, evidence)
        return Claim(evidence, self._best >= 1 / self.error, self._requests, self._wrong)


def digests(outputs: Tensor) -> list[str]:
    """Return the digest of each probe's output bits; outputs of shape (probes, ...)."""
    return [digest_bytes(row.contiguous().numpy().tobytes()) for row in outputs]


def requests_until_refuted(
    provider: Provider,
    answers: Mapping[str, Sequence[Hashable]],
    claimed: Sequence[str],
    *,
    limit: int,
    error: float = 0.01,
    seed: Seed | int = 0,
) -> int | None:
    """Return after how many requests a claim is refuted, None if not within ``limit``.

    Args:
        provider: who answers.
        answers: for each platform its answer to every probe.
        claimed: the platforms that the provider says it runs.
        limit: requests to make at most; probes are asked in random order, again and again.
        error: chance of ever refuting a true claim.
        seed: of the order.
    """
    test = ClaimTest([answers[name] for name in claimed], error=error)
    probes = len(next(iter(answers.values())))
    order: list[int] = []
    for request in range(limit):
        if not order:
            order = derive(seed, "order", request).numpy().permutation(probes).tolist()
        probe = order.pop()
        if test.see(probe, answers[provider.platform(request, probe)][probe]).refuted:
            return request + 1
    return None


def spoofed(outputs: Tensor, dtype: str) -> Tensor:
    """Return float32 outputs cast to ``bfloat16`` or ``float16`` and back: they look the part, and no more.

    The grid rules believe it. The bits do not agree with those of a network that was computed in that format, except
    where the provider emulates every step: then nothing tells them apart, for the bits *are* those of the platform.

    Raises:
        InvalidConfig: another format.
    """
    if dtype not in ("bfloat16", "float16"):
        raise InvalidConfig(f"outputs are spoofed as bfloat16 or float16, not {dtype!r}")
    return outputs.to(getattr(torch, dtype)).float()
