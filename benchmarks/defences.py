"""What defences leave of the power to identify a platform, and what they cost.

The claim is the CPU time of serving with float64 reductions, against the model without a defence. Beside it: for each
defence the share of platforms named, narrowed and wrongly named, and of those nearest in least squares (who knows of
noise does that), and the cost to users; requests until dishonest providers are refuted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch

from benchmarks import _harness
from holdfast.data import Dataset, probes
from holdfast.execution import Proportion, Trace, predict, quantile
from holdfast.identification import (
    LOCAL_PLATFORMS,
    MixedFleet,
    Noise,
    OneByOne,
    RoundOutputs,
    RoutedByPrompt,
    Substitution,
    WideReductions,
    collect_platforms,
    defend,
    digests,
    identification_power,
    noise_scale,
    requests_until_refuted,
    spoofed,
    trace_on,
    utility,
)
from holdfast.models import build_architecture
from holdfast.seeds import derive

PLATFORMS = ("default", "batch-1", "channels-last", "onednn-off", "bf16", "fp16")
FP32 = PLATFORMS[:4]
NETS = {"digits-cnn": (1, 8, 8), "cifar-resnet20": (3, 32, 32)}
SEEDS, COUNT = range(8), 16
RUNS = 40
Traces = Mapping[str, Trace]
Send = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One net, its probes, and what every platform computes."""

    model: torch.nn.Module
    data: Dataset
    plain: Traces


def measure() -> _harness.Result:
    """Time a net with and without float64 reductions."""
    torch.set_num_threads(1)
    model = build_architecture("cifar-resnet20", seed=0).eval()
    data = probes("uniform", n=64, shape=(3, 32, 32), seed=0)
    served = WideReductions().around(model)
    images = next(iter(data.batches(64)))[0]
    with torch.no_grad():
        pairs = _harness.paired(lambda: served(images), lambda: model(images), repeats=9)
    return _harness.summarise("64 images with float64 reductions", pairs, peer_name="the model without a defence")


def experiments() -> list[Experiment]:
    """Every net with its own weights and probes for each seed."""
    found = []
    for net, shape in NETS.items():
        for seed in SEEDS:
            model = build_architecture(net, seed=500 + seed).eval()
            data = probes("uniform", n=COUNT, shape=shape, seed=500 + seed)
            found.append(Experiment(model, data, collect_platforms(model, data, PLATFORMS)))
    return found


def defences(known: list[Experiment]) -> Iterator[dict[str, Any]]:
    """Yield a row for every defence, over all experiments."""
    yield _row("none", known, lambda item: (item.plain, item.plain))
    for decimals in (7, 6, 5, 4, 3, 2, 1):
        yield _row(f"{decimals} decimals", known, _sending(lambda item, d=decimals: RoundOutputs(decimals=d).send))
    for advantage in (0.9, 0.5, 0.1):
        yield _row(f"noise, advantage {advantage:g}", known, _sending(lambda item, a=advantage: _noise(item, a)))
    yield _row("one by one", known, lambda item: _computed(item, OneByOne(), FP32))
    yield _row("float64 reductions", known, lambda item: _computed(item, WideReductions(), FP32))
    both = (WideReductions(), RoundOutputs(decimals=5))
    yield _row("float64 reductions, 5 decimals", known, lambda item: _computed(item, both, FP32))


def _noise(item: Experiment, advantage: float) -> Send:
    """Noise that hides the fp32 stacks from each other; a bf16 net would need far more."""
    scale = noise_scale([item.plain[name].outputs for name in FP32], advantage=advantage)
    return Noise(scale=scale, secret=derive(9, item.data.digest)).send


def _sending(choose: Callable[[Experiment], Send]) -> Callable[[Experiment], tuple[Traces, Traces]]:
    def sent(item: Experiment) -> tuple[Traces, Traces]:
        send = choose(item)
        raw = item.data.raw
        return item.plain, {
            name: dataclasses.replace(trace, outputs=send(trace.outputs, raw)) for name, trace in item.plain.items()
        }

    return sent


def _computed(item: Experiment, how: Any, names: tuple[str, ...]) -> tuple[Traces, Traces]:
    """References and targets of the defended model: the adversary knows the defence and runs it too."""
    served = defend(item.model, *(how if isinstance(how, tuple) else (how,)))
    traces = {name: trace_on(LOCAL_PLATFORMS[name], served, item.data) for name in names}
    return traces, traces


def _row(name: str, known: list[Experiment], around: Callable[[Experiment], tuple[Traces, Traces]]) -> dict[str, Any]:
    trials = [around(item) for item in known]
    fp32 = [({k: r[k] for k in FP32}, {k: t[k] for k in FP32}) for r, t in trials]
    everyone, close = identification_power(trials), identification_power(fp32)
    plain = torch.cat([item.plain["default"].outputs for item in known])
    cost = utility(plain, torch.cat([targets["default"].outputs for _, targets in trials]))
    return {
        "defence": name,
        "named": _told(everyone.named),
        "wrong": _told(everyone.wrong),
        "named_fp32": _told(close.named),
        "nearest_fp32": _told(close.nearest),
        "changed": _told(cost.changed),
        "largest_change": cost.largest,
        "mean_change": cost.mean,
    }


def providers(known: Experiment) -> Iterator[dict[str, Any]]:
    """Yield requests until a claim of ``default`` is refuted at error 0.01, over providers of forty seeds."""
    answers = {name: digests(trace.outputs) for name, trace in known.plain.items()}
    answers["cast to bf16"] = digests(spoofed(known.plain["default"].outputs, "bfloat16"))
    for share in (1.0, 0.3, 0.1, 0.03, 0.01):
        yield _delay(f"substitution of {share:g}", answers, lambda seed, s=share: Substitution(
            claimed="default", actual="onednn-off", share=s, seed=seed))  # fmt: skip
    for share in (0.3, 0.1):
        yield _delay(f"routing of {share:g} of prompts", answers, lambda seed, s=share: RoutedByPrompt(
            claimed="default", actual="onednn-off", share=s, seed=seed))  # fmt: skip
    fleet = {"default": 0.5, "onednn-off": 0.3, "channels-last": 0.2}
    yield _delay("undeclared fleet", answers, lambda seed: MixedFleet(shares=fleet, seed=seed))
    yield _delay("declared fleet", answers, lambda seed: MixedFleet(shares=fleet, seed=seed), tuple(fleet))
    yield _delay("fp32 cast to bf16, claimed bf16", answers, lambda seed: MixedFleet(
        shares={"cast to bf16": 1.0}, seed=seed), ("bf16",))  # fmt: skip


def _delay(
    name: str, answers: Any, make: Callable[[int], Any], claimed: tuple[str, ...] = ("default",), limit: int = 4000
) -> dict[str, Any]:
    found = [requests_until_refuted(make(seed), answers, claimed, limit=limit, seed=seed) for seed in range(RUNS)]
    delays = [float("inf") if delay is None else float(delay) for delay in found]
    middle = quantile(delays, 0.5, least=1.0, most=float("inf"))
    refuted = Proportion.clopper_pearson(sum(delay is not None for delay in found), RUNS)
    shown = {key: None if value == float("inf") else value for key, value in asdict(middle).items()}
    return {"provider": name, "refuted": _told(refuted), "median_requests": shown, "limit": limit}


def _told(found: Proportion) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def main() -> None:
    """Run as a command: tables for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    result, known = asdict(measure()), experiments()
    more = {"defences": list(defences(known)), "providers": list(providers(known[0]))}
    more["one_by_one"] = [asdict(_one_by_one())]
    if as_json:
        print(json.dumps(result | more, sort_keys=True))
        return
    print(f"{result['claim']}: x {result['ratio']:.2f} ({result['low']:.2f} .. {result['high']:.2f})")
    for row in (*more["one_by_one"], *more["defences"], *more["providers"]):
        print(row)


def _one_by_one() -> _harness.Result:
    model = build_architecture("cifar-resnet20", seed=0).eval()
    data = probes("uniform", n=64, shape=(3, 32, 32), seed=0)
    served = defend(model, OneByOne())
    pairs = _harness.paired(
        lambda: predict(served, data, batch_size=64), lambda: predict(model, data, batch_size=64), repeats=9
    )
    return _harness.summarise("64 images one by one", pairs, peer_name="a batch of 64")


if __name__ == "__main__":
    main()
