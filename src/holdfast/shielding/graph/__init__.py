"""Models as integer graphs: traced, folded, quantised with proved bounds, and the same bits in any batch."""

from holdfast.shielding.graph.exporting import export
from holdfast.shielding.graph.program import IntegerModel, Ref, Step

__all__ = ["IntegerModel", "Ref", "Step", "export"]
