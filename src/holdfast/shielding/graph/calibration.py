"""What flows through a captured graph on calibration data: magnitudes where codes will be, and shapes everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from holdfast.errors import InvalidConfig
from holdfast.shielding.graph.capture import Captured
from holdfast.shielding.graph.naming import describe

_HINT = "calibrate on batches (batch, *sample) of what the model takes"


@dataclass(slots=True)
class Seen:
    """Observations of one graph.

    Attributes:
        peaks: largest magnitude of an argument, by node name and position.
        shapes: shape of every node's tensor output for the first sample alone: the batch need not be its first side.
        dtypes: of the same.
    """

    peaks: dict[tuple[str, int], float] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)

    def elements(self, name: str) -> int:
        """Return the elements of a node's output per sample; 0 if it is no tensor."""
        shape = self.shapes.get(name)
        return 0 if shape is None else torch.Size(shape).numel()


class _Watch(fx.Interpreter):
    """Runs the graph and keeps what :class:`Seen` asks for."""

    def __init__(self, graph: fx.GraphModule, wanted: Mapping[str, tuple[int, ...]], seen: Seen) -> None:
        super().__init__(graph)
        self.extra_traceback = False  # or errors end in torch's words
        self._wanted, self._seen, self._first = wanted, seen, not seen.shapes

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self._wanted:
            args, _ = self.fetch_args_kwargs_from_env(n)
            for place in self._wanted[n.name]:
                self._observe(n, place, args[place])
        result = super().run_node(n)
        if self._first and isinstance(result, Tensor):
            self._seen.shapes[n.name], self._seen.dtypes[n.name] = tuple(result.shape), result.dtype
        return result

    def _observe(self, node: fx.Node, place: int, value: Tensor) -> None:
        peak = float(value.abs().max()) if value.numel() else 0.0
        if not peak < torch.inf:
            raise InvalidConfig(
                f"{describe(node)} saw a value that is not finite in calibration",
                hint="leave NaN and infinity out of the calibration, or find what makes them in the model",
            )
        key = (node.name, place)
        self._seen.peaks[key] = max(peak, self._seen.peaks.get(key, 0.0))


def calibrate(
    captured: Captured, wanted: Mapping[str, tuple[int, ...]], batches: Iterable[Tensor], sample: tuple[int, ...]
) -> Seen:
    """Run ``batches`` (batch, *sample) through the float graph.

    Args:
        sample: shape of one sample that the graph was captured for.
        wanted: positions of the arguments whose magnitudes matter, by node name.

    Raises:
        InvalidConfig: no sample at all, samples of another shape, or a value that is not finite.
    """
    seen = Seen()
    with torch.no_grad():
        for batch in batches:
            if not isinstance(batch, Tensor):
                raise InvalidConfig(f"a calibration batch is a {type(batch).__name__}, not a tensor", hint=_HINT)
            if batch.dim() and not len(batch):
                continue
            if tuple(batch.shape[1:]) != sample:
                found = "x".join(map(str, batch.shape[1:])) or "one number"
                raise InvalidConfig(
                    f"a calibration sample is {found}, but the example is {'x'.join(map(str, sample)) or 'one number'}",
                    hint=_HINT,
                )
            batch = batch.float() if batch.is_floating_point() else batch
            try:
                for part in (batch,) if seen.shapes else (batch[:1], batch):
                    _Watch(captured.graph, wanted, seen).run(*captured.bind(part))
            except (RuntimeError, LookupError, TypeError, ValueError) as error:
                told = str(error).partition("\n")[0]
                raise InvalidConfig(
                    f"the model does not take a calibration batch of {batch.dtype}: {told}", hint=_HINT
                ) from error
    if not seen.shapes:
        raise InvalidConfig("calibration holds no sample", hint="pass some dozens of representative inputs")
    return seen
