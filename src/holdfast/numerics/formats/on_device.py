"""Fixed-point codes of many tensors at once on a CUDA device: the codes and values of the formats, to the bit.

Where :class:`~holdfast.numerics.formats.FixedPoint` takes dozens of launches for each tensor, the kernels take a few
for all of them. :func:`objection` says what they cannot do, which the format itself then does, tensor by tensor.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from holdfast._kernels import device as devices
from holdfast._kernels.device import attempt, obstacle
from holdfast.numerics.formats.fixed_point import FixedPoint
from holdfast.numerics.formats.protocol import Format
from holdfast.numerics.granularity import Granularity, rows_and_columns

if TYPE_CHECKING:
    from holdfast._kernels.codes import Codes, Law
    from holdfast._kernels.parts import Parts

_KEPT = 8  # layouts and laws


def objection(form: Format, tensors: Sequence[Tensor]) -> str | None:
    """Return why the kernels cannot encode ``tensors`` in ``form``; None if they can."""
    if not isinstance(form, FixedPoint):
        return f"{form.name} is not fixed point"
    if form.bits > 8:
        return f"codes have {form.bits} bits, more than eight"
    if form.granularity == "tile":
        return "scales belong to tiles"
    if any(item.dtype != torch.float32 for item in tensors):
        return "a tensor is not float32"
    if any(not item.numel() for item in tensors) or not tensors:
        return "a tensor is empty"
    if len({item.device for item in tensors}) > 1:
        return "the tensors lie on several devices"
    return next((why for why in map(obstacle, tensors) if why is not None), None)


def encode_all(form: FixedPoint, tensors: Sequence[Tensor]) -> tuple[Codes, Tensor] | None:
    """Return the codes of ``tensors``, each in a fresh range, and the values they stand for.

    None where only :meth:`FixedPoint.encode` can say what is right: a value that is not finite or near the end of
    float32, or a kernel that does not compile. :func:`objection` has to be None.
    """
    return attempt(lambda: _encoded(form, tensors), tensors[0].device)


def encode_again(form: FixedPoint, tensors: Sequence[Tensor], qparams: Sequence[Mapping[str, Tensor]]) -> Codes | None:
    """Return the codes of ``tensors`` in ranges that are given, ``scale`` and ``low`` of each tensor.

    None where :meth:`FixedPoint.encode` has to say what is right, as for :func:`encode_all`.
    """
    found = attempt(lambda: _encoded(form, tensors, qparams), tensors[0].device)
    return None if found is None else found[0]


def flip_on_device(
    form: Format, codes: Tensor, qparams: Mapping[str, Tensor], values: Tensor, index: Tensor, mask: Tensor
) -> bool:
    """Flip bits of codes and decode just these into ``values``, by a kernel; False where none can, and nothing is done.

    Args:
        form: of the codes.
        codes: of one tensor, one a byte.
        qparams: ``scale`` and ``low``.
        values: what the codes stand for, of the same shape.
        index: flat elements, int64 (n,), each once.
        mask: what to XOR into them, int64 (n,).
    """
    if codes.device.type not in devices.KINDS or not isinstance(form, FixedPoint) or not _shares_evenly(form, codes):
        return False
    taken = (codes, values, index, mask, *(qparams[key] for key in ("scale", "low")))
    if objection(form, [values]) is not None or any(obstacle(item) is not None for item in taken):
        return False
    from holdfast._kernels.codes import touch_

    scales, law = (qparams["scale"], qparams["low"]), law_of(form, codes.device)

    def run() -> bool:
        touch_(codes, values, (index, mask), scales, law)
        return True

    return attempt(run, codes.device) is not None


def _shares_evenly(form: FixedPoint, codes: Tensor) -> bool:
    """Whether every scale belongs to as many neighbouring elements."""
    if form.granularity == "group":
        return rows_and_columns(codes.shape)[1] % form.group == 0
    return form.granularity != "tile"


def _encoded(
    form: FixedPoint, tensors: Sequence[Tensor], frozen: Sequence[Mapping[str, Tensor]] | None = None
) -> tuple[Codes, Tensor] | None:
    from holdfast._kernels import encode

    sources = tuple((item.data_ptr(), tuple(item.shape)) for item in tensors)
    parts, law = parts_of(form.sharing, sources, tensors[0].device), law_of(form, tensors[0].device)
    least, most = encode.extremes(parts)
    scale, low = _fresh(form, least, most) if frozen is None else _joined(frozen)
    strange = ~(torch.isfinite(least) & torch.isfinite(most))
    wide = scale.double().abs() * 2**form.bits + low.double().abs() > 2.0**127
    if bool((strange | wide).any()):
        return None
    return encode.encoded(parts, law, scale, low)


def _fresh(form: FixedPoint, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scale and the low end of each part, of the extremes found in it."""
    near, far = (item.double().clamp(*_clip(form)) for item in (least, most))
    qparams = form.range_of(near, far)
    return qparams["scale"].contiguous(), qparams["low"].contiguous()


def _joined(frozen: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the scales and the low ends of all parts, those of the first tensor first."""
    scale, low = (torch.cat([item[key].reshape(-1) for item in frozen]) for key in ("scale", "low"))
    return scale, low


def _clip(form: FixedPoint) -> tuple[float, float]:
    if form.clip is None:
        return -torch.inf, torch.inf
    return -form.clip if form.low is None else form.low, form.clip


_layouts: OrderedDict[tuple[object, ...], Parts] = OrderedDict()
_laws: OrderedDict[tuple[object, ...], Law] = OrderedDict()


def parts_of(sharing: Granularity, sources: tuple[tuple[int, tuple[int, ...]], ...], device: torch.device) -> Parts:
    """Return the tables of tensors of float32 at (address, shape), made once for tensors that stay where they are."""
    from holdfast._kernels.parts import lay_out

    key = (sharing, sources, device)
    if key not in _layouts:
        spans = [_spans(sharing, shape) for _, shape in sources]
        _layouts[key] = lay_out([address for address, _ in sources], spans, torch.float32.itemsize, device)
        while len(_layouts) > _KEPT:
            _layouts.popitem(last=False)
    return _layouts[key]


def _spans(sharing: Granularity, shape: tuple[int, ...]) -> np.ndarray:
    """Return how many elements each part of a tensor has, in order."""
    rows, columns = rows_and_columns(shape, sharing.along)
    if sharing.kind == "tensor" or (sharing.kind == "channel" and len(shape) < 2):
        return np.array([rows * columns], np.int64)
    if sharing.kind == "channel":
        return np.full(rows, columns, np.int64)
    each = np.full(-(-columns // sharing.size), sharing.size, np.int64)
    each[-1] = columns - sharing.size * (len(each) - 1)
    return np.tile(each, rows)


def law_of(form: FixedPoint, device: torch.device) -> Law:
    """Return how the kernels read and write codes of ``form``."""
    from holdfast._kernels.codes import Law

    key = (form, device)
    if key not in _laws:
        inside = form._nearest_inside() if form.saturate else (-torch.inf, torch.inf)
        limits = [*form._reach(), *inside, *_clip(form), 2.0**-23]
        _laws[key] = Law(
            bits=form.bits,
            signed=form.signed,
            offset=form._offset(),
            saturate=form.saturate,
            limits=torch.tensor(limits, dtype=torch.float64).to(device),
            truncate=form.rounding == "truncate",
        )
        while len(_laws) > _KEPT:
            _laws.popitem(last=False)
    return _laws[key]
