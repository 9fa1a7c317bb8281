"""What the untrusted world may hold or carry without learning it: blinded activations, sealed files."""

from holdfast.shielding.sealing.blinding import Pad, PadStore

__all__ = ["Pad", "PadStore"]
