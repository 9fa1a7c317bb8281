"""The report: one self-contained page from a list of records."""

from holdfast.reporting.page import Verdict, render

__all__ = ["Verdict", "render"]
