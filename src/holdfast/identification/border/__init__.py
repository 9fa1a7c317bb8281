"""Border inputs: images and prompts that two platforms answer with different labels."""

from holdfast.identification.border.checks import Demands, Standing
from holdfast.identification.border.find import border
from holdfast.identification.border.found import Found, Search
from holdfast.identification.border.inputs import BorderInput, BorderSet, checked
from holdfast.identification.border.lattice import Lattice
from holdfast.identification.border.lattice_search import LatticeSearch
from holdfast.identification.border.oracle import Local, Oracle, Service, open_oracles

__all__ = [
    "BorderInput",
    "BorderSet",
    "Demands",
    "Found",
    "Lattice",
    "LatticeSearch",
    "Local",
    "Oracle",
    "Search",
    "Service",
    "Standing",
    "border",
    "checked",
    "open_oracles",
]
