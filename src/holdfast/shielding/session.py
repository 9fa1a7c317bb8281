"""A shielded session: integer products run in an untrusted process, blinded and checked; all else stays here."""

from __future__ import annotations

import copy
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast.errors import ArtifactError, IntegrityError, InvalidConfig, NoSuchSite, Unavailable
from holdfast.models import Site
from holdfast.seeds import Entropy
from holdfast.shielding.checking import Check, Freivalds, require_entropy
from holdfast.shielding.integer import integer_layers
from holdfast.shielding.offloaded import Offloaded, RemoteLayer
from holdfast.shielding.transport import SpawnedWorker, dial
from holdfast.shielding.transport.client import Client

Phase = Literal["prepare", "blind", "remote", "unblind", "check", "trusted"]
PHASES: tuple[Phase, ...] = ("prepare", "blind", "remote", "unblind", "check", "trusted")


class Session(nn.Module):
    """Runs an int8 model with every integer product offloaded; bit-equal to the model itself.

    Use it as a context manager. The first answer that fails its check raises IntegrityError, naming the layer, and
    ends the session; nothing computed from it is returned.

    Args:
        model: from :func:`~holdfast.shielding.int8_model`; left alone.
        stream: a connected socket to a worker.
        check: how answers are verified.
        blinding: False sends int8 codes in the clear (integrity without privacy).
        timeout: seconds for one answer.
        entropy: source of masks and challenges.
        owner: kept alive, and closed with the session.

    Raises:
        InvalidConfig: no integer layer, or ``entropy`` is not Entropy.
        WorkerUnreachable, UnsupportedVersion: nobody, or another version, answers.
    """

    def __init__(
        self,
        model: nn.Module,
        stream: socket.socket,
        *,
        check: Check,
        blinding: bool = True,
        timeout: float = 60.0,
        entropy: Entropy,
        owner: SpawnedWorker | None = None,
    ) -> None:
        super().__init__()
        require_entropy(entropy, what="a session")
        self._owner, self._blinding = owner, blinding
        self._taps: Mapping[str, Callable[[Tensor], Tensor]] = {}
        self._spent: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self.model = copy.deepcopy(model).eval()
        self._layers = {
            name: Offloaded(name, layer, check, entropy) for name, layer in integer_layers(self.model).items()
        }
        if not self._layers:
            raise InvalidConfig("the model has no integer layer to offload", hint="make it with int8_model() first")
        self._client = Client(stream, timeout=timeout)
        for name, offloaded in self._layers.items():
            self._client.load(name, offloaded.layer.geometry, offloaded.layer.codes)
            self._replace(name, offloaded)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's output for ``images`` (batch, *sample).

        Raises:
            IntegrityError: the worker lied; names the layer.
            WorkerUnreachable: the worker crashed or is silent.
            InvalidConfig: the session is closed.
        """
        self._client.require_open()
        start, before = time.perf_counter(), sum(self._spent.values())
        with torch.no_grad():
            output: Tensor = self.model(images)
        elsewhere = sum(self._spent.values()) - before
        self._spent["trusted"] += time.perf_counter() - start - elsewhere
        return output

    def prepare(self, samples: int) -> None:
        """Draw masks for ``samples`` inputs of the calibrated size ahead of time; what is missing is drawn later."""
        with self._phase("prepare"):
            for offloaded in self._layers.values():
                shape = offloaded.layer.sample_shape
                offloaded.store.prepare(shape, samples - offloaded.store.available(shape))

    @property
    def timings(self) -> dict[str, float]:
        """Seconds spent so far by phase: ``prepare`` draws masks, ``remote`` is transfer and computation together."""
        return {str(phase): seconds for phase, seconds in self._spent.items()}

    @property
    def closed(self) -> bool:
        """Whether the session is over."""
        return self._client.closed

    def offload_sites(self) -> tuple[Site, ...]:
        """Return one ``offload`` site per offloaded layer: its int32 answer for one sample."""
        return tuple(
            Site("offload", name, item.layer.geometry.output_shape(item.layer.sample_shape), "int32", 32)
            for name, item in self._layers.items()
        )

    @contextmanager
    def tap(self, taps: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[Session]:
        """Pass the named layers' answers (int32, (batch, *output)) through functions before they are checked.

        Lies made here are experiments: a detected one raises IntegrityError and renews the layer's challenge, but the
        session goes on.

        Raises:
            NoSuchSite: a name that is not an offloaded layer.
        """
        for name in taps:
            if name not in self._layers:
                raise NoSuchSite(f"layer {name!r} is not offloaded", hint=f"offloaded: {', '.join(self._layers)}")
        outer, self._taps = self._taps, taps
        try:
            yield self
        finally:
            self._taps = outer

    def recover(self) -> None:
        """Go on after a detected experiment; the challenge of the layer is a new one already.

        Raises:
            InvalidConfig: the session is closed, because the worker itself lied.
        """
        self._client.require_open()

    def close(self) -> None:
        """End the session and stop a worker it started; more than once does no harm."""
        self._client.close()
        if self._owner is not None:
            self._owner.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, object]) -> Session:
        """Refuse: a copy would use the same masks twice."""
        raise InvalidConfig("a session cannot be copied", hint="open a second one with shield()")

    def __reduce__(self) -> tuple[Any, ...]:
        """Refuse, for the same reason."""
        raise InvalidConfig("a session cannot leave its process", hint="run the campaign with executor='inline'")

    def _replace(self, name: str, offloaded: Offloaded) -> None:
        remote = RemoteLayer(offloaded.layer, lambda codes: self._accumulate(offloaded, codes))
        remote._forward_hooks.update(offloaded.layer._forward_hooks)
        remote._forward_pre_hooks.update(offloaded.layer._forward_pre_hooks)
        if not name:
            self.model = remote
            return
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, remote)

    def _accumulate(self, offloaded: Offloaded, codes: Tensor) -> Tensor:
        """Return the product for int8 ``codes`` (batch, *sample), or raise; the only way answers enter the model."""
        shape = tuple(codes.shape[1:])
        with self._phase("prepare"):
            pad = offloaded.store.take(shape, len(codes)) if self._blinding else None
        with self._phase("blind"):
            message = codes.to(torch.int32) if pad is None else pad.blind(codes)
        with self._phase("remote"):
            wanted = (len(codes), *offloaded.layer.geometry.output_shape(shape))
            answer = self._multiply(offloaded.name, message, wanted)
        if (distort := self._taps.get(offloaded.name)) is not None:
            answer = distort(answer)
        with self._phase("unblind"):
            product = answer if pad is None else pad.unblind(answer)
        with self._phase("check"):
            if not offloaded.verifier.accepts(codes, product):
                self._accuse(offloaded)
        return product

    def _multiply(self, layer: str, message: Tensor, wanted: tuple[int, ...]) -> Tensor:
        try:
            return self._client.multiply(layer, message, wanted)
        except (IntegrityError, Unavailable, ArtifactError):
            self.close()
            raise

    def _accuse(self, offloaded: Offloaded) -> None:
        """Raise for a lie in one layer; end the session unless the lie was our own experiment."""
        if experiment := offloaded.name in self._taps:
            offloaded.renew()
        else:
            self.close()
        raise IntegrityError(
            f"the worker returned a wrong product for layer {offloaded.name!r}",
            hint="the lie was injected here" if experiment else "do not trust this worker; the session is closed",
        )

    @contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[phase] += time.perf_counter() - start


def shield(
    model: nn.Module,
    worker: str = "spawn",
    *,
    check: Check | None = None,
    blinding: bool = True,
    timeout: float = 60.0,
    worker_options: Sequence[str] = (),
    entropy: Entropy | None = None,
) -> Session:
    """Open a session in which an untrusted process computes the integer products of ``model``.

    Args:
        model: from :func:`~holdfast.shielding.int8_model`.
        worker: ``"spawn"`` starts one in a process of its own; ``"unix:PATH"`` reaches one that listens already.
        check: how every answer is verified; by default :class:`~holdfast.shielding.Freivalds`.
        blinding: hide activations from the worker with one-time pads.
        timeout: seconds to wait for the worker to start, and for each answer.
        worker_options: extra arguments for a spawned worker, e.g. ``("--fault", "bit-flip", "--seed", "1")``.
        entropy: source of masks and challenges; an experiment's Seed is refused.

    Raises:
        InvalidConfig: no integer layer, a bad address, or a Seed where Entropy is needed.
        WorkerUnreachable: nobody answers in time.
        UnsupportedVersion: the worker is another version.
    """
    entropy = Entropy() if entropy is None else entropy
    require_entropy(entropy, what="a session")
    if not integer_layers(model):
        raise InvalidConfig("the model has no integer layer to offload", hint="make it with int8_model() first")
    owner = SpawnedWorker(worker_options) if worker == "spawn" else None
    try:
        stream = dial(worker) if owner is None else owner.connect(timeout)
        return Session(
            model,
            stream,
            check=check if check is not None else Freivalds(),
            blinding=blinding,
            timeout=timeout,
            entropy=entropy,
            owner=owner,
        )
    except BaseException:
        if owner is not None:
            owner.close()
        raise
