"""A shielded session: integer products run in an untrusted process, blinded and checked; all else stays here."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast.errors import ArtifactError, IntegrityError, InvalidConfig, NoSuchSite, Unavailable
from holdfast.models import Site, card
from holdfast.seeds import Entropy
from holdfast.shielding.checking import Check, require_entropy
from holdfast.shielding.integer import IntegerLayer, accumulator_bound, integer_layers
from holdfast.shielding.kernels import kernel
from holdfast.shielding.offloaded import Offloaded, Placements, RemoteLayer, agreed
from holdfast.shielding.own_process import OwnProcess
from holdfast.shielding.product import MOST_PLANES, planes_for
from holdfast.shielding.sealing import Budget, MaskStream, Pad, PadStore, Spill
from holdfast.shielding.transport import Channel, Client, SpawnedWorker

Phase = Literal["prepare", "blind", "remote", "unblind", "check", "trusted"]
_TOGETHER = 16  # samples whose masks are prepared in one layer before the next
PHASES: tuple[Phase, ...] = ("prepare", "blind", "remote", "unblind", "check", "trusted")


class Session(nn.Module):
    """Runs an int8 model with every integer product offloaded; bit-equal to the model itself.

    Use it as a context manager. The first answer that fails its check raises IntegrityError, naming the layer, and
    ends the session; nothing computed from it is returned. Threads may share it and take turns; a process that was
    forked off since may not use it.

    Args:
        model: from :func:`~holdfast.shielding.int8_model`; left alone.
        channel: to a worker.
        check: how answers are verified.
        placements: where each integer layer runs, see :func:`shield`.
        entropy: source of masks, challenges and the nonce.
        masks: where masks come from; by default a stream whose key ends with the session.
        budget: of memory for masks and unblinding vectors; by default without limit. A batch whose masks do not fit
            at once goes to the worker in parts.
        spill: for vectors that do not fit in memory; closed with the session.
        owner: kept alive, and closed with the session.

    Raises:
        InvalidConfig: no integer layer, a placement that is none, ``entropy`` is not Entropy, or a budget that does
            not hold the masks of one sample in each layer.
        NoSuchSite: a placement of a layer that does not exist.
        WorkerUnreachable, UnsupportedVersion: nobody, or another version, answers.
        IntegrityError: the answer is for another session.
    """

    def __init__(
        self,
        model: nn.Module,
        channel: Channel,
        *,
        check: Check,
        placements: Placements | None = None,
        entropy: Entropy,
        masks: MaskStream | None = None,
        budget: Budget | None = None,
        spill: Spill | None = None,
        owner: SpawnedWorker | None = None,
    ) -> None:
        super().__init__()
        require_entropy(entropy, what="a session")
        self._owner, self._spill, self._turn, self._process = owner, spill, RLock(), OwnProcess("a session")
        self._taps: Mapping[str, Callable[[Tensor], Tensor]] = {}
        self._spent: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self._plain, self.model = (model,), copy.deepcopy(model).eval()  # in a tuple, so that it is no submodule
        own, known = card(self), card(model)
        own.lineage, own.input_shape, own.classes = list(known.lineage), known.input_shape, known.classes
        self.placements, layers = agreed(self.model, placements), integer_layers(self.model)
        masks, self._budget = masks or MaskStream.fresh(entropy), budget or Budget()
        self._layers = {
            name: Offloaded(name, layers[name], check, entropy, store)
            for name, where in self.placements.items()
            if where != "trusted"
            for store in [_store(name, layers[name], masks, self._budget, spill) if where == "blinded" else None]
        }
        self._client = Client(channel, entropy=entropy)
        for name, offloaded in self._layers.items():
            layer, planes = offloaded.layer, 1 if offloaded.store is None else offloaded.store.planes
            self._client.load(name, layer.geometry, layer.codes, sample=layer.sample_shape, planes=planes)
            self._replace(name, offloaded)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's output for ``images`` (batch, *sample).

        Raises:
            IntegrityError: the worker lied; names the layer.
            WorkerUnreachable: the worker crashed or is silent.
            StorageError: one sample, larger than those of the calibration, takes more memory than is allowed.
            InvalidConfig: the session is closed, or this process was forked off since it was opened.
        """
        with self._alone():
            self._client.require_open()
            start, before = time.perf_counter(), sum(self._spent.values())
            with torch.no_grad():
                output: Tensor = self.model(images)
            elsewhere = sum(self._spent.values()) - before
            self._spent["trusted"] += time.perf_counter() - start - elsewhere
            return output

    def prepare(self, samples: int) -> None:
        """Draw masks for ``samples`` inputs of the calibrated size ahead of time; what is missing is drawn later.

        Raises:
            StorageError: they do not fit in the memory and disk allowed for them.
            InvalidConfig: this process was forked off since the session was opened.
        """
        layers = [(item.store, item.layer.sample_shape) for item in self._layers.values() if item.store is not None]
        with self._alone(), self._phase("prepare"):
            for ready in self._levels(layers, samples):
                for store, shape in layers:
                    store.prepare(shape, ready - store.available(shape))

    def _levels(self, layers: list[tuple[PadStore, tuple[int, ...]]], samples: int) -> Iterable[int]:
        """Return how many samples to have ready in all layers, one number after the other.

        Where memory may run out they go up one by one: a sample whose masks are ready in some layers only gains little.
        """
        ready = min((store.available(shape) for store, shape in layers), default=samples)
        size = sum(store.vector(shape) for store, shape in layers) * (samples - ready)
        step = _TOGETHER if self._spill is not None or size <= self._budget.free else 1
        return [*range(ready + step, samples, step), samples]

    @property
    def timings(self) -> dict[str, float]:
        """Seconds spent so far by phase: ``prepare`` draws masks, ``remote`` is transfer and computation together."""
        return {str(phase): seconds for phase, seconds in self._spent.items()}

    @property
    def kernels(self) -> dict[str, str]:
        """How int8 products are computed: here, as shown by a self-test, and by the worker, in its own words."""
        return {
            "trusted": kernel().name,
            "worker": self._client.worker["kernel"],
            "device": self._client.worker["device"],
        }

    @property
    def closed(self) -> bool:
        """Whether the session is over."""
        return self._client.closed

    def plain_model(self) -> nn.Module:
        """Return the model that it computes, for those who ask what that is; not a copy."""
        return self._plain[0]

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
        with self._alone():
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
        """End the session and stop a worker it started; more than once does no harm.

        A call in another thread ends first. In a process that was forked off nothing happens: the session is not its.
        """
        if not self._process.here:
            return
        with self._turn:
            self._client.close()
            for own in (self._owner, self._spill):
                if own is not None:
                    own.close()

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
        # weak, or session and layers would hold each other, and with them a copy of the model and all secrets would
        # outlive the session until a garbage collection that a large program never comes to
        session = weakref.ref(self)
        remote = RemoteLayer(offloaded.layer, lambda codes: _alive(session)._accumulate(offloaded, codes))
        remote._forward_hooks.update(offloaded.layer._forward_hooks)
        remote._forward_pre_hooks.update(offloaded.layer._forward_pre_hooks)
        if not name:
            self.model = remote
            return
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, remote)

    def _accumulate(self, offloaded: Offloaded, codes: Tensor) -> Tensor:
        """Return the product for int8 ``codes`` (batch, *sample), or raise; the only way answers enter the model."""
        if not codes.numel():
            return offloaded.layer.accumulate(codes)  # there is nothing to ask for
        with self._alone():
            parts = [self._asked(offloaded, part) for part in self._parts(offloaded, codes)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _parts(self, offloaded: Offloaded, codes: Tensor) -> Iterator[Tensor]:
        """Yield the batch in as few parts as the memory for masks allows, and at least one sample at a time."""
        while len(codes):
            at_once = len(codes)
            if offloaded.store is not None:
                at_once = max(offloaded.store.fitting(tuple(codes.shape[1:]), at_once), 1)
            yield codes[:at_once]
            codes = codes[at_once:]

    def _asked(self, offloaded: Offloaded, codes: Tensor) -> Tensor:
        shape = tuple(codes.shape[1:])
        with self._phase("prepare"):
            pad = None if offloaded.store is None else offloaded.store.take(shape, len(codes))
        with self._phase("blind"):
            message = codes.unsqueeze(0) if pad is None else pad.blind(codes)
        with self._phase("remote"):
            wanted = (len(codes), *offloaded.layer.geometry.output_shape(shape))
            answer = self._multiply(offloaded.name, message, wanted, pad)
        if (distort := self._taps.get(offloaded.name)) is not None:
            answer = distort(answer)
        with self._phase("unblind"):
            product = answer if pad is None else pad.unblind(answer)
        with self._phase("check"):
            if not (_reduced(answer, pad) and offloaded.verifier.accepts(codes, product)):
                self._accuse(offloaded)
        return product

    def _multiply(self, layer: str, message: Tensor, wanted: tuple[int, ...], pad: Pad | None) -> Tensor:
        try:
            if pad is None:
                return self._client.multiply(layer, message, wanted)
            return self._client.multiply(layer, message, wanted, mask=pad.number, planes=pad.planes)
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
    def _alone(self) -> Iterator[None]:
        """Wait for other threads; a question between another one and its answer would make a liar of the worker."""
        self._process.require()  # before the lock, which a fork copies as it was
        with self._turn:
            yield

    @contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[phase] += time.perf_counter() - start


def _alive(session: weakref.ref[Session]) -> Session:
    if (found := session()) is None:
        raise InvalidConfig("the session is gone", hint="keep the session, not only its model")
    return found


def _store(name: str, layer: IntegerLayer, masks: MaskStream, budget: Budget, spill: Spill | None) -> PadStore:
    # of the codes as they are now: since the layer was made, other weights may have been loaded into it
    planes = planes_for(accumulator_bound(layer.codes, layer.top_code, layer=name))
    store = PadStore(layer.codes, layer.geometry, masks, budget=budget, spill=spill, planes=planes)
    store.keep_room(layer.sample_shape)
    return store


def _reduced(answer: Tensor, pad: Pad | None) -> bool:
    """Say whether an answer is the residue around zero, as asked for.

    Bytes above the modulus do not change the product. That a worker touches them is a lie all the same: nothing that
    it sends goes unchecked.
    """
    if pad is None or pad.planes == MOST_PLANES or not answer.numel():
        return True
    most, (low, high) = 1 << (8 * pad.planes - 1), answer.aminmax()
    return -most <= int(low) and int(high) < most
