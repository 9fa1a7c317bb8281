"""What a collection may spend, counted before it is spent."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from holdfast.errors import InvalidConfig

_TEMPLATE = 64  # tokens that a chat template may put around a prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits on all requests of a collection together, those of earlier sessions included; None is no limit.

    Attributes:
        requests: how many may be sent, retries included.
        tokens: prompt and generated, together.
        cost: in the currency of the prices.
        prices: for a million (prompt, generated) tokens.
    """

    requests: int | None = None
    tokens: int | None = None
    cost: float | None = None
    prices: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.requests, self.tokens, self.cost) if limit is not None]
        if any(not (math.isfinite(limit) and limit > 0) for limit in limits):
            raise InvalidConfig("a budget is positive")
        if self.prices is not None and any(not (math.isfinite(price) and price >= 0) for price in self.prices):
            raise InvalidConfig("prices are 0 or more")
        if self.cost is not None and (self.prices is None or max(self.prices) == 0):
            raise InvalidConfig(
                "a limit on the cost needs the prices", hint="--price 0.15,0.60 for a million prompt, generated tokens"
            )


@dataclass(slots=True)
class Spending:
    """What has been spent, and what requests under way may still come to.

    A request is let through only if the worst it can cost fits, so that a limit holds with any number under way.
    """

    budget: Budget
    requests: int = 0
    prompt: int = 0  # tokens
    generated: int = 0
    _held: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """In the currency of the prices; 0 without prices."""
        return self._cost(self.prompt, self.generated)

    def hold(self, name: str, prompt: str, tokens: int) -> str | None:
        """Reserve the worst case of a request; return which limit forbids it, or None.

        A prompt has at most as many tokens as bytes.
        """
        worst = len(prompt.encode()) + _TEMPLATE, tokens
        held = [*self._held.values(), worst]
        total = self.prompt + sum(item[0] for item in held), self.generated + sum(item[1] for item in held)
        limits = self.budget
        if limits.requests is not None and self.requests + len(held) > limits.requests:
            return f"{limits.requests} requests"
        if limits.tokens is not None and sum(total) > limits.tokens:
            return f"{limits.tokens} tokens"
        if limits.cost is not None and self._cost(*total) > limits.cost:
            return f"a cost of {limits.cost:g}"
        self._held[name] = worst
        return None

    def sent(self, name: str, used: tuple[int, int] | None) -> tuple[int, int]:
        """Book one attempt that was let through, and return what it counts as.

        That is what the server charged, or where nobody knows (None) the worst it can have been.
        """
        worst = self._held.pop(name, (0, 0))
        counted = worst if used is None else used
        self.book(1, counted)
        return counted

    def book(self, requests: int, used: tuple[int, int]) -> None:
        """Add what was spent, now or in an earlier session."""
        self.requests += requests
        self.prompt += used[0]
        self.generated += used[1]

    def _cost(self, prompt: int, generated: int) -> float:
        prices = self.budget.prices or (0.0, 0.0)
        return (prompt * prices[0] + generated * prices[1]) / 1e6
