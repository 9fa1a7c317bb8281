"""Libraries of platforms: reference traces, the classes they fall into, and a library that ships with the package."""

from holdfast.identification.library.records import Entry, EquivalenceClass, Machine, Skipped, Subject
from holdfast.identification.library.shipped import shipped
from holdfast.identification.library.store import Library

__all__ = ["Entry", "EquivalenceClass", "Library", "Machine", "Skipped", "Subject", "shipped"]
