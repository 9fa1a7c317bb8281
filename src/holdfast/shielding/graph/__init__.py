"""Models as integer graphs: traced, folded, quantised with proved bounds, saved, and the same bits in any batch."""

from holdfast.shielding.graph.exporting import export
from holdfast.shielding.graph.program import IntegerModel, Ref, Step
from holdfast.shielding.graph.stored import FORMAT

__all__ = ["FORMAT", "IntegerModel", "Ref", "Step", "export"]
