"""Computing with an untrusted machine: what it sees is uniform, and what it answers is checked.

Each name is imported on first use, so that evidence is verified without loading a framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast import _lazy

if TYPE_CHECKING:
    from holdfast.shielding.checking import ESCAPE, Check, Freivalds, FreivaldsVerifier, Verifier, checks
    from holdfast.shielding.integer import Int8Conv2d, Int8Linear, IntegerLayer, int8_model, integer_layers
    from holdfast.shielding.opening import shield
    from holdfast.shielding.sealing import (
        FileCounter,
        MaskStream,
        MonotonicCounter,
        Pad,
        PadStore,
        SealedStore,
        Sealer,
        read_key,
    )
    from holdfast.shielding.session import PHASES, Session
    from holdfast.shielding.transport import MutualTls

_WHERE = {
    "holdfast.shielding.checking": "ESCAPE Check Freivalds FreivaldsVerifier Verifier checks",
    "holdfast.shielding.integer": "Int8Conv2d Int8Linear IntegerLayer int8_model integer_layers",
    "holdfast.shielding.opening": "shield",
    "holdfast.shielding.sealing": "FileCounter MaskStream MonotonicCounter Pad PadStore SealedStore Sealer read_key",
    "holdfast.shielding.session": "PHASES Session",
    "holdfast.shielding.transport": "MutualTls",
}

__getattr__, __dir__ = _lazy.attach(
    __name__, {name: f"{module}:{name}" for module, names in _WHERE.items() for name in names.split()}
)

__all__ = [
    "ESCAPE",
    "PHASES",
    "Check",
    "FileCounter",
    "Freivalds",
    "FreivaldsVerifier",
    "Int8Conv2d",
    "Int8Linear",
    "IntegerLayer",
    "MaskStream",
    "MonotonicCounter",
    "MutualTls",
    "Pad",
    "PadStore",
    "SealedStore",
    "Sealer",
    "Session",
    "Verifier",
    "checks",
    "int8_model",
    "integer_layers",
    "read_key",
    "shield",
]
