"""The public face: every name resolves to what it says, and nothing shadows a verb."""

from __future__ import annotations

import ast
import importlib
import re
import types

import pytest

import holdfast

from .source import SRC


def type_checking_names() -> dict[str, str]:
    tree = ast.parse((SRC / "holdfast" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_lazy_names_typed_names_and_all_agree():
    lazy = {name: target.partition(":")[0] for name, target in holdfast._EXPORTS.items()}
    assert lazy == type_checking_names()
    assert sorted(holdfast.__all__) == sorted(lazy) == dir(holdfast)


@pytest.mark.parametrize("name", sorted(holdfast.__all__))
def test_every_public_name_resolves(name: str):
    value = getattr(holdfast, name)
    assert not isinstance(value, types.ModuleType), f"holdfast.{name} is a module, not the {name} it promises"
    assert value.__doc__, f"holdfast.{name} has no docstring"


def test_a_verb_survives_the_import_of_every_package():
    for path in sorted((SRC / "holdfast").glob("*/__init__.py")):
        importlib.import_module(f"holdfast.{path.parent.name}")
    shadowed = [name for name in holdfast.__all__ if isinstance(getattr(holdfast, name), types.ModuleType)]
    assert not shadowed


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'asess'"):
        holdfast.asess  # noqa: B018


def test_version_is_the_one_of_the_package():
    project = (SRC.parent / "pyproject.toml").read_text()
    assert f'version = "{holdfast.__version__}"' in project
    assert re.fullmatch(r"\d+\.\d+\.\d+", holdfast.__version__)
