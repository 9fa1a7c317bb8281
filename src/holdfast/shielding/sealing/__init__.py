"""What the untrusted world may hold or carry without learning it: blinded activations, sealed files, counted masks."""

from holdfast.shielding.sealing.aead import Sealer, read_key
from holdfast.shielding.sealing.blinding import Pad, PadStore
from holdfast.shielding.sealing.budget import Budget
from holdfast.shielding.sealing.counter import FileCounter, MonotonicCounter, VolatileCounter
from holdfast.shielding.sealing.masks import MaskStream
from holdfast.shielding.sealing.model_store import SealedStore
from holdfast.shielding.sealing.spill import Spill

__all__ = [
    "Budget",
    "FileCounter",
    "MaskStream",
    "MonotonicCounter",
    "Pad",
    "PadStore",
    "SealedStore",
    "Sealer",
    "Spill",
    "VolatileCounter",
    "read_key",
]
