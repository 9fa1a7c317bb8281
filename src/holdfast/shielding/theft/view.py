"""What the untrusted world holds of a model's parameters under a placement, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.shielding.graph import IntegerModel
from holdfast.shielding.graph.leaves import GroupedConvolution
from holdfast.shielding.integer import IntegerLayer
from holdfast.shielding.planner import Deadline, Optimal, Placement, Rule, workload
from holdfast.shielding.planner.machine import Law, Laws, Machine, measure

_FREE = Laws(conv2d=Law(), linear=Law())
_NO_MACHINE = Machine(trusted=_FREE, open=_FREE, worker=_FREE, check=_FREE, step=0.0, elements=1.0, pads=1.0,
                      bandwidth=1.0, crossing=0.0)  # fmt: skip  # for rules that go by order alone


@dataclass(frozen=True, slots=True)
class Seen:
    """One layer as the worker sees it.

    Attributes:
        codes: int8, shape (out, ...).
        scale: float32, shape (out,), value of one code; None where the trusted world keeps it.
        bias: float32, shape (out,); None where the trusted world keeps it.
    """

    codes: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None


View = Mapping[str, Seen]


def view(model: IntegerModel, placements: Mapping[str, Placement]) -> dict[str, Seen]:
    """Return every layer whose weights the worker sees, by path.

    Verified, blinded and probed layers show their codes; exposed ones everything; trusted ones nothing. Values that
    verified and probed layers show as well are not in it.

    Raises:
        InvalidConfig: a placement for a node that the model does not have.
    """
    known = {node.name for node in workload(model).nodes}
    if unknown := placements.keys() - known:
        raise InvalidConfig(f"the model has no node {min(unknown)!r}")
    found: dict[str, Seen] = {}
    for name, part in model.named_modules():
        word = placements.get(name, "trusted")
        if isinstance(part, IntegerLayer | GroupedConvolution) and word != "trusted":
            found[name] = _whole(part) if word == "exposed" else Seen(part.codes)
    return found


def view_under(model: IntegerModel, rule: Rule, *, budget: int | None = None, machine: Machine | None = None) -> View:
    """Return what the worker sees when ``rule`` places the nodes.

    Args:
        budget: bytes that the trusted world may hold.
        machine: rates of the target, for rules that weigh costs; measured here by default.
    """
    weighs = isinstance(rule, Optimal | Deadline)
    where = machine or (measure() if weighs else _NO_MACHINE)
    return view(model, rule.place(workload(model), where, budget))


def _whole(part: IntegerLayer | GroupedConvolution) -> Seen:
    """Return a layer with its scale and bias; a missing bias is known to be zero."""
    bias: Tensor | None = part.bias
    scale = part.weight_scale if isinstance(part, IntegerLayer) else part.scale.reshape(-1) / part.activation_scale
    found = scale.detach()
    return Seen(part.codes, found, found.new_zeros(len(found)) if bias is None else bias.detach().reshape(-1))
