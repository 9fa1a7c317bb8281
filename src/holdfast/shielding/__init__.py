"""Computing with an untrusted machine: what it sees is uniform, and what it answers is checked."""

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
