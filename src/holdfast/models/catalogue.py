"""Architectures by name: ours, a user's factory, timm's or transformers'."""

from __future__ import annotations

import importlib
import inspect
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from holdfast._extras import extra
from holdfast._registry import Registry, unknown
from holdfast.errors import InvalidConfig, UnknownName, UnsafeArtifact
from holdfast.models.card import card
from holdfast.seeds import derive

_NETWORKS = ("holdfast.identification.probe_nets",)  # modules of ours that hold networks and nothing that acts
_NOT_OF_CALLERS = frozenset((*sys.stdlib_module_names, "holdfast", "torch", "numpy"))

architectures: Registry[nn.Module] = Registry("architecture", "holdfast.architectures")


def build_architecture(spec: str, *, seed: int = 0, here: bool = True) -> nn.Module:
    """Build an untrained module with weights drawn from ``seed``; the caller's generators are left alone.

    Args:
        spec: a registered name (``cifar-resnet20``, ``simplenet:channels=16``), ``package.module:factory`` for a
            user's own callable without arguments, ``timm:NAME`` or ``transformers:FOLDER``.
        seed: of the weights.
        here: find a user's module in the current folder as well.

    Raises:
        UnknownName: no such architecture, module or factory.
        MissingExtra: ``timm`` or ``transformers`` is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights").words()[1] >> 1)
        model = _built(spec, here=here)
    if not isinstance(model, nn.Module):
        raise InvalidConfig(f"{spec} gives a {type(model).__name__}, not a torch.nn.Module")
    card(model).architecture = spec
    return model


def build_named_in_file(spec: str, what: str, *, signed: bool) -> nn.Module:
    """Build the architecture that the file ``what`` names; it may choose among what is known, and have no code run.

    The networks of this package are known. A user's factory counts as known where its module is imported already.
    Where the file is ``signed``, what is installed does, too; the current folder is not looked at for it.

    Raises:
        UnsafeArtifact: a factory in a module that nobody has imported, or something else to call.
        UnknownName, MissingExtra: as :func:`build_architecture`.
    """
    name, _, attribute = spec.partition(":")
    if _is_factory(name, attribute):
        factory = getattr(sys.modules.get(name), attribute, None)
        if not signed and name not in _NETWORKS and not _makes_modules(name, factory):
            hint = f"if you know it: --arch {shlex.quote(spec)}"  # which somebody may copy into a shell
            raise UnsafeArtifact(f"{what} names the code {spec!r}, which would run", hint=hint)
    return build_architecture(spec, here=False)


def _makes_modules(module_name: str, factory: object) -> bool:
    """Say whether ``factory`` is a network, or a function of the caller's: those of libraries may start servers."""
    if isinstance(factory, type):
        return issubclass(factory, nn.Module)
    return inspect.isfunction(factory) and module_name.partition(".")[0] not in _NOT_OF_CALLERS


def _is_factory(name: str, tail: str) -> bool:
    import holdfast.models.networks  # noqa: F401  (its modules register themselves)

    return bool(tail) and "=" not in tail and name not in ("timm", "transformers", *architectures.names())


def _built(spec: str, *, here: bool) -> object:
    name, _, tail = spec.partition(":")
    if _is_factory(name, tail):
        return _from_factory(name, tail, here=here)
    if name == "timm":
        return _timm(tail)
    if name == "transformers":
        return _transformers(tail)
    return architectures.build(spec)


def _from_factory(module_name: str, attribute: str, *, here: bool) -> object:
    """Import and call a user's factory; with ``here`` the current folder is importable until it returns."""
    folder = str(Path.cwd())
    added = here and folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        return _user_factory(module_name, attribute)()
    finally:
        if added:
            sys.path.remove(folder)


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
