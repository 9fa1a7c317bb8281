"""The untrusted worker: holds int8 weights and multiplies byte planes of residues by them.

It sees the weights and blinded values (or int8 codes, of layers placed as ``verified``), never a scale or a secret.
Run it as ``python -m holdfast.services.worker --socket PATH``; ``--shared`` takes bodies through shared memory,
``--user`` gives root's rights up before it listens. With ``--fault SPEC`` it really lies: the fault is applied to
every product it returns.
"""

from __future__ import annotations

import argparse
import errno
import logging
import math
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import holdfast
from holdfast._device import device_named
from holdfast.errors import HoldfastError, IntegrityError, InvalidConfig, MissingDevice, WorkerUnreachable
from holdfast.services.accelerator import Accelerator
from holdfast.services.device import prepared
from holdfast.services.process import become, end_when_terminated, end_with, renounce
from holdfast.shielding.product import MOST_PLANES, Geometry
from holdfast.shielding.transport.shared import accept
from holdfast.shielding.transport.spawn import socket_kind
from holdfast.shielding.transport.stream import Connection
from holdfast.shielding.transport.wire import MAX_BODY, Channel, Frame, Kind, encode, parsed


class Worker:
    """Answers one session.

    Args:
        distort: applied to every result with the layer's name, as if the hardware (or its owner) were at fault;
            None answers honestly.
        device: where the products run, such as ``cpu`` or ``cuda``.
        accelerator: what computes them there, where it is not the usual.

    Raises:
        MissingDevice: nothing is exact on ``device``.
    """

    def __init__(
        self,
        distort: Callable[[str, Tensor], Tensor] | None = None,
        *,
        device: str = "cpu",
        accelerator: Accelerator | None = None,
    ) -> None:
        self._distort, self._device = distort, device
        self._accelerator = Accelerator(device_named(device)) if accelerator is None else accelerator
        self._layers: dict[str, Geometry] = {}
        self._nonce: object = None

    def serve(self, channel: Channel) -> None:
        """Answer frames until the session says goodbye or goes away.

        Raises:
            MissingDevice: the device failed; the session was told so, and no other should be served.
        """
        while True:
            try:
                frame = channel.receive()
                if frame.kind is Kind.BYE:
                    return
                channel.send(self.answer(frame))
            except WorkerUnreachable:
                return
            except HoldfastError as error:
                _complain(channel, str(error))
                if isinstance(error, MissingDevice):
                    raise
                return

    def answer(self, frame: Frame) -> Frame:
        """Return the answer to one frame.

        Raises:
            InvalidConfig, IntegrityError: a frame that makes no sense.
            StorageError: the device has no memory for it.
            MissingDevice: the device failed.
        """
        if frame.kind is Kind.HELLO:
            return self._greet(frame)
        layer, body = frame.header.get("layer"), frame.body
        if not isinstance(layer, str) or body is None or frame.kind not in (Kind.LOAD, Kind.RUN):
            raise IntegrityError("the session sends a frame that is neither weights nor work")
        if body.dtype != torch.int8:
            raise IntegrityError("the session sends other than int8")
        if frame.header.get("nonce") != self._nonce:
            raise IntegrityError("the session sends the nonce of another session")
        return self._load(layer, frame, body) if frame.kind is Kind.LOAD else self._run(layer, frame, body)

    def _greet(self, frame: Frame) -> Frame:
        self._nonce = frame.header.get("nonce")
        facts = {"tool": holdfast.__version__, "kernel": self._accelerator.kernel, "device": self._device}
        return Frame(Kind.HELLO, {**facts, "nonce": self._nonce})

    def _load(self, layer: str, frame: Frame, weights: Tensor) -> Frame:
        geometry = Geometry.from_json(frame.header.get("geometry"))
        if tuple(weights.shape) != geometry.weight_shape:
            raise InvalidConfig(f"weights of {layer!r} have shape {tuple(weights.shape)}")
        planes = _bytes(frame.header.get("planes", MOST_PLANES))
        self._accelerator.load(layer, geometry, weights, sample=_sample(frame, geometry, planes), planes=planes)
        self._layers[layer] = geometry
        return Frame(Kind.LOADED, {"layer": layer, "nonce": self._nonce})

    def _run(self, layer: str, frame: Frame, planes: Tensor) -> Frame:
        if layer not in self._layers:
            raise InvalidConfig(f"no weights were sent for layer {layer!r}")
        if planes.ndim < 2 or not 1 <= planes.shape[0] <= MOST_PLANES:
            raise InvalidConfig(f"a message has 1 to {MOST_PLANES} byte planes of inputs, not {tuple(planes.shape)}")
        self._layers[layer].output_shape(tuple(planes.shape[2:]))  # refuses what the layer does not take
        product = self._accelerator.multiply(layer, planes, _bytes(frame.header.get("bytes", MOST_PLANES)))
        header = {key: frame.header.get(key, 0) for key in ("layer", "sequence", "nonce", "mask")}
        return Frame(Kind.RESULT, header, product if self._distort is None else self._distort(layer, product))


def _bytes(ring: object) -> int:
    if isinstance(ring, bool) or not isinstance(ring, int) or not 1 <= ring <= MOST_PLANES:
        raise InvalidConfig(f"residues have 1 to {MOST_PLANES} bytes, not {ring!r:.20}")
    return ring


def _sample(frame: Frame, geometry: Geometry, planes: int) -> tuple[int, ...] | None:
    """Return what samples the session announces for a layer, if it does."""
    if (sides := frame.header.get("sample")) is None:
        return None
    if not isinstance(sides, list) or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sides):
        raise InvalidConfig(f"a sample of a layer has sides, not {sides!r:.60}")
    if planes * math.prod(sides) > MAX_BODY or 4 * math.prod(geometry.output_shape(tuple(sides))) > MAX_BODY:
        raise InvalidConfig(f"a message of samples of {sides!r:.60} would be longer than {MAX_BODY} bytes")
    return tuple(sides)


def _complain(channel: Channel, message: str) -> None:
    try:
        channel.send(Frame(Kind.ERROR, {"message": message[:1000]}))
    except WorkerUnreachable:
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """How a worker serves.

    Args:
        fault: specification of a registered fault, such as ``bit-flip``, applied to every result.
        seed: of the fault.
        once: stop after the first session.
        threads: of the products.
        shared: take sessions over shared memory instead of a stream.
        user: name or number of the user to become before listening; needs root.
        device: where the products run.
        device_memory: most bytes that they may take of a CUDA device; by default all it has.
    """

    fault: str | None = None
    seed: int = 0
    once: bool = False
    threads: int = 1
    shared: bool = False
    user: str | None = None
    device: str = "cpu"
    device_memory: int | None = None


def serve(path: Path | str, service: Service | None = None, *, ready: Callable[[], None] | None = None) -> None:
    """Listen on the AF_UNIX socket ``path`` (made with mode 0600) and answer one session after another.

    Args:
        path: where to listen; must not exist, unless a killed worker left it.
        service: how; by default honestly, as this user, over a stream.
        ready: called when sessions can connect.

    Raises:
        WorkerUnreachable: the socket cannot be made.
        UnknownName, InvalidConfig: ``fault`` is not a fault, or ``user`` is nobody here.
        MissingDevice: ``device`` does not exist here, or it failed in a session.
    """
    service = Service() if service is None else service
    distort = None if service.fault is None else lie(service.fault, service.seed)
    torch.set_num_threads(service.threads)
    with prepared(service.device, memory=service.device_memory, user=service.user) as hand_over:
        renounce()
        rehearse(service)
        hand_over()
        _listen_and_answer(Path(path), service, distort, ready)


def _listen_and_answer(
    path: Path, service: Service, distort: Callable[[str, Tensor], Tensor] | None, ready: Callable[[], None] | None
) -> None:
    listener = _listen(path, service)
    try:
        if ready is not None:
            ready()
        while True:
            _answer(listener.accept()[0], service, distort)
            if service.once:
                return
    finally:
        listener.close()
        with suppress(PermissionError):  # its folder belongs to the user we no longer are
            path.unlink(missing_ok=True)


def _answer(stream: socket.socket, service: Service, distort: Callable[[str, Tensor], Tensor] | None) -> None:
    peer = "the session"
    try:
        channel: Channel = (
            accept(stream, timeout=None, peer=peer) if service.shared else Connection(stream, timeout=None, peer=peer)
        )
    except HoldfastError:  # whoever connected did not know how; the next one may
        stream.close()
        return
    try:
        Worker(distort, device=service.device).serve(channel)
    finally:
        channel.close()


def rehearse(service: Service) -> None:
    """Answer a small session of our own, so that everything is imported while we may still read it.

    A worker that gives root's rights up may lose the right to read its own modules with them.
    """
    distort = None if service.fault is None else lie(service.fault, service.seed)
    worker = Worker(distort, device=service.device)
    geometry = Geometry(kind="linear", in_channels=2, out_channels=2)
    ones = torch.ones(2, 2, dtype=torch.int8)
    for question in (
        Frame(Kind.HELLO, {"nonce": "rehearsal"}),
        Frame(Kind.LOAD, {"layer": "one", "geometry": geometry.to_json(), "nonce": "rehearsal", "sample": [2]}, ones),
        Frame(Kind.RUN, {"layer": "one", "sequence": 1, "nonce": "rehearsal", "mask": 0}, ones.view(1, 2, 2)),
    ):
        parsed(b"".join(encode(worker.answer(parsed(b"".join(encode(question)), "rehearsal")))), "rehearsal")


def lie(fault: str, seed: int) -> Callable[[str, Tensor], Tensor]:
    """Return what distorts every result by a registered fault."""
    from holdfast.services.lie import Lie  # an honest worker starts without the fault machinery

    return Lie(fault, seed)


def _listen(path: Path, service: Service) -> socket.socket:
    kind = socket_kind(shared=service.shared)
    listener = socket.socket(socket.AF_UNIX, kind)
    bound = False
    try:
        _clear_stale(path, kind)
        listener.bind(str(path))
        bound = True
        path.chmod(0o600)
        if service.user is not None:
            become(service.user)  # before listening: the kernel tells sessions who listens
        listener.listen(1)
    except (OSError, HoldfastError) as error:
        listener.close()
        if bound:
            path.unlink(missing_ok=True)
        if isinstance(error, HoldfastError):
            raise
        raise WorkerUnreachable(
            f"cannot listen on {path}: {error.strerror or error}",
            hint="choose a short path that does not exist yet",
        ) from error
    return listener


def _clear_stale(path: Path, kind: socket.SocketKind) -> None:
    """Remove a socket that a killed worker left behind; leave a living one, and anything that is not a socket."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, kind) as probe:
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink()


def speak() -> None:
    """Have what this package logs said on standard error, down to which way each layer takes."""
    logger = logging.getLogger("holdfast")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker from the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="holdfast.services.worker", description=__doc__)
    parser.add_argument("--socket", required=True, help="path of the AF_UNIX socket to make")
    parser.add_argument("--fault", help="lie: a fault such as bit-flip, applied to every result")
    parser.add_argument("--seed", type=int, default=0, help="of the fault")
    parser.add_argument("--once", action="store_true", help="stop after the first session")
    parser.add_argument("--threads", type=int, default=1, help="of the products")
    parser.add_argument("--shared", action="store_true", help="take sessions over shared memory")
    parser.add_argument("--user", help="become this user before listening")
    parser.add_argument("--device", default="cpu", help="where the products run, such as cuda")
    parser.add_argument("--device-memory", type=int, help="most bytes of a CUDA device to take")
    parser.add_argument("--parent", type=int, help="number of the process to end with")
    options = vars(parser.parse_args(arguments))
    end_when_terminated()
    speak()
    if (parent := options.pop("parent")) is not None:
        end_with(parent)
    try:
        serve(options.pop("socket"), Service(**options))
    except HoldfastError as error:
        sys.stderr.write(f"error: {error}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
