"""Architectures by name: ours, a user's factory, timm's or transformers'."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from holdfast._extras import extra
from holdfast._registry import Registry, unknown
from holdfast.errors import InvalidConfig, UnknownName
from holdfast.models.card import card
from holdfast.seeds import derive

architectures: Registry[nn.Module] = Registry("architecture", "holdfast.architectures")


def build_architecture(spec: str, *, seed: int = 0) -> nn.Module:
    """Build an untrained module with weights drawn from ``seed``; the caller's generators are left alone.

    Args:
        spec: a registered name (``cifar-resnet20``, ``simplenet:channels=16``), ``package.module:factory`` for a
            user's own callable without arguments, ``timm:NAME`` or ``transformers:FOLDER``.

    Raises:
        UnknownName: no such architecture, module or factory.
        MissingExtra: ``timm`` or ``transformers`` is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights").words()[1] >> 1)
        model = _built(spec)
    if not isinstance(model, nn.Module):
        raise InvalidConfig(f"{spec} gives a {type(model).__name__}, not a torch.nn.Module")
    card(model).architecture = spec
    return model


def _built(spec: str) -> object:
    name, _, tail = spec.partition(":")
    import holdfast.models.networks  # noqa: F401  (its modules register themselves)

    if name == "timm":
        return _timm(tail)
    if name == "transformers":
        return _transformers(tail)
    if tail and "=" not in tail and name not in architectures.names():
        return _from_factory(name, tail)
    return architectures.build(spec)


def _from_factory(module_name: str, attribute: str) -> object:
    """Import and call a user's factory; the current folder is importable until it returns."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return _user_factory(module_name, attribute)()
    finally:
        if added:
            sys.path.remove(here)


def _user_factory(module_name: str, attribute: str) -> Callable[[], object]:
    hint = "write package.module:factory, importable from this folder"
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UnknownName(f"cannot import {attribute} from {module_name}: {error}", hint=hint) from error
    if not callable(factory):
        raise InvalidConfig(f"{module_name}:{attribute} is not callable", hint=hint)
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        message = f"{module_name}:{attribute} cannot be called without arguments: {error}"
        raise InvalidConfig(message, hint="wrap it in a function that takes none") from error
    return factory  # type: ignore[no-any-return]


def _timm(name: str) -> nn.Module:
    timm = extra("timm", name="vision", needs="timm is not installed")
    if name not in timm.list_models():
        raise unknown("timm model", name, timm.list_models())
    return timm.create_model(name, pretrained=False)  # type: ignore[no-any-return]


def _transformers(folder: str) -> nn.Module:
    transformers = extra("transformers", name="hf", needs="transformers is not installed")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UnknownName(f"no transformers model in {folder}", hint="name a folder that holds config.json") from error
    return transformers.AutoModelForImageClassification.from_config(config)  # type: ignore[no-any-return]
