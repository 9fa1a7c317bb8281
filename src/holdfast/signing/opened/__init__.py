"""Verify on load: the bytes that were checked are the bytes that are used."""

from holdfast.signing.opened.content import Content, Listed
from holdfast.signing.opened.model import VerifiedModel, open_verified
from holdfast.signing.opened.slices import VerifiedSlice

__all__ = ["Content", "Listed", "VerifiedModel", "VerifiedSlice", "open_verified"]
