"""The report: one self-contained page from a list of records; and bills of materials, which need no framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast import _lazy

if TYPE_CHECKING:
    from holdfast.reporting.page import Verdict, render

__all__ = ["Verdict", "render"]

__getattr__, __dir__ = _lazy.attach(
    __name__, {"Verdict": "holdfast.reporting.page:Verdict", "render": "holdfast.reporting.page:render"}
)
