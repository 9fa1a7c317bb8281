"""Token-DiFR: do sampled tokens come from the model they are said to come from (Karvonen et al., 2025, 2511.20621).

Provider and verifier share the noise of sampling: a token is the argmax of z / T + g, with g Gumbel noise made from a
common seed, the sequence and the position. The verifier computes the logits z of its reference model on the claimed
tokens and scores each by its post-Gumbel margin, max(z / T + g) minus that of the claimed token: 0 where the reference
would have said the same, and small where numerics decided. Another model, format or sampler shows as a larger mean.
At temperature 0 there is no noise, and texts of any provider can be scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize, stats
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.execution import Estimate, MeanEstimate, Proportion
from holdfast.identification.samples import relabelled
from holdfast.seeds import Seed, derive

Logits = Callable[[Tensor], Tensor]  # int64 tokens (sequences, t) -> float logits (sequences, t, vocabulary)
_CAP = 8.0  # nats: one wild token must not hide all others (the paper clips at a high percentile)


def gumbel(seed: Seed | int, sequence: int, position: int, vocabulary: int) -> Tensor:
    """Return the noise of one position, float64, shape (vocabulary,): the same for everybody who has the seed."""
    uniform = derive(seed, "gumbel", sequence, position).numpy().random(vocabulary)
    return torch.from_numpy(-np.log(-np.log(np.clip(uniform, 2.0**-53, None))))


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSampling:
    """How tokens are drawn, known to both sides.

    Attributes:
        seed: of the noise.
        temperature: divisor of the logits; 0 is greedy, without noise.
    """

    seed: Seed | int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse temperatures below zero."""
        if self.temperature < 0:
            raise InvalidConfig(f"a temperature is not negative, as {self.temperature} is")

    def scores(self, logits: Tensor, first: int, position: int) -> Tensor:
        """Return what the argmax is taken of, float64: logits (sequences, vocabulary) at one position.

        Args:
            logits: float, shape (sequences, vocabulary).
            first: number of the first sequence.
            position: place in the completion, from 0.
        """
        if self.temperature == 0:
            return logits.double()
        count, vocabulary = logits.shape
        noise = [gumbel(self.seed, first + row, position, vocabulary) for row in range(count)]
        return logits.double() / self.temperature + torch.stack(noise)

    def generate(self, model: Logits, prompts: Tensor, count: int, *, first: int = 0) -> Tensor:
        """Return ``count`` new tokens for each prompt, int64, shape (sequences, count).

        Args:
            model: gives the logits of every position.
            prompts: int64, shape (sequences, t), of one length.
            count: tokens to draw.
            first: number of the first sequence, which names its noise.
        """
        tokens = prompts
        with torch.no_grad():
            for position in range(count):
                scores = self.scores(model(tokens)[:, -1], first, position)
                tokens = torch.cat([tokens, scores.argmax(dim=-1, keepdim=True)], dim=1)
        return tokens[:, prompts.shape[1] :]

    def margins(self, model: Logits, prompts: Tensor, claimed: Tensor, *, first: int = 0) -> Tensor:
        """Return the post-Gumbel margin of every claimed token under ``model``, in nats, shape of ``claimed``.

        One pass scores a whole sequence: every token is judged after the claimed ones before it, so a fork early in a
        text is one error and does not make all that follows look wrong.

        Raises:
            InvalidConfig: claims that do not fit the prompts.
        """
        if claimed.dim() != 2 or len(claimed) != len(prompts):
            raise InvalidConfig(f"{tuple(claimed.shape)} tokens do not fit {len(prompts)} prompts")
        start = prompts.shape[1] - 1
        with torch.no_grad():
            logits = model(torch.cat([prompts, claimed], dim=1))[:, start:-1]
        columns = []
        for position in range(claimed.shape[1]):
            scores = self.scores(logits[:, position], first, position)
            mine = scores.gather(1, claimed[:, position : position + 1])[:, 0]
            columns.append(scores.max(dim=1).values - mine)
        return torch.stack(columns, dim=1)


@dataclass(frozen=True, slots=True)
class TokenDivergence:
    """How far claimed tokens diverge from a reference, beside those of an honest provider.

    Attributes:
        agreement: share of tokens that the reference would have said (interval over tokens).
        honest_agreement: the same of the honest provider.
        margin: mean clipped margin, in nats (interval over sequences).
        honest_margin: the same of the honest provider.
        auc: chance that a batch of claimed tokens scores above an honest one (Newcombe's interval).
        tokens: tokens in a batch.
        p_value: chance of margins this large if the provider is honest (permutation of sequences; never 0).
    """

    agreement: Proportion
    honest_agreement: Proportion
    margin: MeanEstimate
    honest_margin: MeanEstimate
    auc: Estimate
    tokens: int
    p_value: float

    def diverges(self, level: float) -> bool:
        """Whether the claim is refused at an error level such as 0.01."""
        return self.p_value <= level


def token_divergence(
    claimed: Tensor, honest: Tensor, *, tokens: int | None = None, permutations: int = 2000, seed: Seed | int = 0
) -> TokenDivergence:
    """Hold the margins of claimed tokens against those of a provider known to be honest.

    Args:
        claimed: margins, shape (sequences, t).
        honest: margins of honest runs on other hardware, batches or kernels; shape (sequences', t).
        tokens: size of the batches that the AUC is about, a whole sequence where None; sequences are not mixed.
        permutations: relabellings of sequences, the unit that is independent.
        seed: of the permutations.

    Raises:
        InvalidConfig: fewer than two sequences on either side, or batches longer than they are.
    """
    if min(len(claimed), len(honest)) < 2 or claimed.dim() != 2 or honest.dim() != 2:
        raise InvalidConfig("divergence is measured on two sequences or more of either side")
    size = tokens if tokens is not None else min(claimed.shape[1], honest.shape[1])
    if not 0 < size <= min(claimed.shape[1], honest.shape[1]):
        raise InvalidConfig(f"batches of {size} tokens do not fit sequences of {claimed.shape[1]}")
    mine, theirs = (item.clamp(max=_CAP).double().numpy() for item in (claimed, honest))
    return TokenDivergence(
        _agreement(mine),
        _agreement(theirs),
        MeanEstimate.student_t(mine.mean(axis=1).tolist(), least=0.0, most=_CAP),
        MeanEstimate.student_t(theirs.mean(axis=1).tolist(), least=0.0, most=_CAP),
        auc(_batches(mine, size), _batches(theirs, size)),
        size,
        _permuted(mine.mean(axis=1), theirs.mean(axis=1), permutations, seed),
    )


_Values = npt.NDArray[np.float64]


def _agreement(margins: _Values) -> Proportion:
    return Proportion.wilson(int((margins == 0).sum()), margins.size)


def _batches(margins: _Values, size: int) -> Sequence[float]:
    """Return the mean of every ``size`` tokens that follow each other in a sequence."""
    whole = margins.shape[1] // size * size
    return [float(value) for value in margins[:, :whole].reshape(-1, size).mean(axis=1)]


def _permuted(mine: _Values, theirs: _Values, permutations: int, seed: Seed | int) -> float:
    generator = derive(seed, "token-divergence").numpy()
    both, count = np.concatenate([mine, theirs]), len(mine)
    seen = mine.mean()
    chosen = relabelled(len(both), count, permutations, generator)
    return float((1 + (both[chosen].mean(axis=1) >= seen - 1e-12).sum()) / (permutations + 1))


def auc(positives: Sequence[float], negatives: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return P(positive > negative), ties counted half, with Newcombe's score interval (Statist. Med. 2006, method 5).

    The interval stays open below 1 where every positive is above every negative.

    Raises:
        InvalidConfig: an empty side.
    """
    m, n = len(positives), len(negatives)
    if not m or not n:
        raise InvalidConfig("an AUC needs values on both sides")
    ranks = stats.rankdata([*positives, *negatives])
    value = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    z, extra = float(stats.norm.ppf(0.5 + confidence / 2)), (m + n) / 2 - 1

    def off(theta: float, side: int) -> float:
        spread = theta * (1 - theta) * (1 + extra * (1 - theta) / (2 - theta) + extra * theta / (1 + theta)) / (m * n)
        return side * (value - theta) - z * float(np.sqrt(max(spread, 0.0)))

    # at the value itself the equation has a root of its own where the value is 0 or 1
    low = optimize.brentq(off, 0.0, value - 1e-9, args=(1,)) if value > 0 else 0.0
    high = optimize.brentq(off, value + 1e-9, 1.0, args=(-1,)) if value < 1 else 1.0
    return Estimate(value, min(float(low), value), max(float(high), value), m + n)
