"""The laws of a campaign at several rates, from one specification."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from holdfast._registry import parse_spec
from holdfast.errors import InvalidConfig
from holdfast.execution import Fault, faults


def laws(fault: str, rates: Sequence[float] = ()) -> dict[str, Fault]:
    """Return the law of each rate by label, ``p=0.01``; without rates, the one law that ``fault`` specifies.

    Rates reach a law inside others, as in ``protected:by=secded,fault=bit-errors``.

    Raises:
        InvalidConfig: a rate twice or outside 0..1, rates for a law without any, a rate given in both places, or none.
    """
    given = _rate_in(fault)
    if rates and given is None:
        raise InvalidConfig(f"the law {fault} has no rate", hint="give --rates with a law such as bit-errors")
    if rates and given:
        raise InvalidConfig(f"{fault} has a rate already", hint="give the rates in one place")
    if len(set(rates)) < len(rates):
        raise InvalidConfig("a rate occurs twice")
    if rates:
        return {f"p={rate:g}": faults.build(_with_rate(fault, rate)) for rate in rates}
    if given == "" and _needs_rate(fault):
        hint = f"give --rates 0.1%,1%, or --fault {_with_rate(fault, 0.01)}"
        raise InvalidConfig(f"the law {fault} needs rate, the share of bits that flip", hint=hint)
    law = faults.build(fault)
    return {f"p={law.rate:g}" if hasattr(law, "rate") else fault: law}


def _rate_in(fault: str) -> str | None:
    """Return the rate in a specification or in the law it wraps: "" where none is given, None where none is taken."""
    name, options = parse_spec(fault)
    taken = inspect.signature(faults.get(name)).parameters
    if "rate" in taken:
        return options.get("rate", "")
    return _rate_in(options["fault"]) if "fault" in taken and "fault" in options else None


def _needs_rate(fault: str) -> bool:
    name, options = parse_spec(fault)
    taken = inspect.signature(faults.get(name)).parameters
    return taken["rate"].default is inspect.Parameter.empty if "rate" in taken else _needs_rate(options["fault"])


def _with_rate(fault: str, rate: float) -> str:
    """Return the specification with a rate in the law that takes one."""
    name, options = parse_spec(fault)
    if "rate" in inspect.signature(faults.get(name)).parameters:
        options["rate"] = repr(rate)
    else:
        options["fault"] = _with_rate(options["fault"], rate)
    written = (f"{key}=({value})" if "," in value else f"{key}={value}" for key, value in options.items())
    return f"{name}:{','.join(written)}"
