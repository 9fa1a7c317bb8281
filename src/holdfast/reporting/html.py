"""The templates of the pages: what is put in is escaped, and what is missing is an error."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@cache
def template(name: str) -> Template:
    """Return a template of this package by file name."""
    environment = Environment(
        loader=PackageLoader("holdfast.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(name)
