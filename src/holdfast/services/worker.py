"""The untrusted worker: holds int8 weights and multiplies residues modulo 2**32 by them.

It sees blinded values, never an input, a scale or a secret. Run it as
``python -m holdfast.services.worker --socket PATH``, on the same machine or behind a forwarded socket. With
``--fault SPEC`` it really lies: the fault is applied to every product it returns.
"""

from __future__ import annotations

import argparse
import errno
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import holdfast
from holdfast.errors import HoldfastError, IntegrityError, InvalidConfig, WorkerUnreachable
from holdfast.shielding.product import Geometry, ring_product
from holdfast.shielding.transport.wire import Connection, Frame, Kind


class Worker:
    """Answers one session.

    Args:
        distort: applied to every result with the layer's name, as if the hardware (or its owner) were at fault;
            None answers honestly.
    """

    def __init__(self, distort: Callable[[str, Tensor], Tensor] | None = None) -> None:
        self._distort = distort
        self._layers: dict[str, tuple[Geometry, Tensor]] = {}

    def serve(self, connection: Connection) -> None:
        """Answer frames until the session says goodbye or goes away."""
        while True:
            try:
                frame = connection.receive()
                if frame.kind is Kind.BYE:
                    return
                connection.send(self.answer(frame))
            except WorkerUnreachable:
                return
            except HoldfastError as error:
                _complain(connection, str(error))
                return

    def answer(self, frame: Frame) -> Frame:
        """Return the answer to one frame.

        Raises:
            InvalidConfig, IntegrityError: a frame that makes no sense.
        """
        if frame.kind is Kind.HELLO:
            return Frame(Kind.HELLO, {"tool": holdfast.__version__})
        layer, body = frame.header.get("layer"), frame.body
        if not isinstance(layer, str) or body is None or frame.kind not in (Kind.LOAD, Kind.RUN):
            raise IntegrityError("the session sends a frame that is neither weights nor work")
        return self._load(layer, frame, body) if frame.kind is Kind.LOAD else self._run(layer, frame, body)

    def _load(self, layer: str, frame: Frame, weights: Tensor) -> Frame:
        geometry = Geometry.from_json(frame.header.get("geometry"))
        if tuple(weights.shape) != geometry.weight_shape:
            raise InvalidConfig(f"weights of {layer!r} have shape {tuple(weights.shape)}")
        self._layers[layer] = geometry, weights.to(torch.int8)
        return Frame(Kind.LOADED, {"layer": layer})

    def _run(self, layer: str, frame: Frame, residues: Tensor) -> Frame:
        if layer not in self._layers:
            raise InvalidConfig(f"no weights were sent for layer {layer!r}")
        geometry, codes = self._layers[layer]
        geometry.output_shape(tuple(residues.shape[1:]))  # refuses what the layer does not take
        product = ring_product(residues, codes, geometry)
        header = {"layer": layer, "sequence": frame.header.get("sequence", 0)}
        return Frame(Kind.RESULT, header, product if self._distort is None else self._distort(layer, product))


def _complain(connection: Connection, message: str) -> None:
    try:
        connection.send(Frame(Kind.ERROR, {"message": message[:1000]}))
    except WorkerUnreachable:
        return


def serve(
    path: Path | str,
    *,
    fault: str | None = None,
    seed: int = 0,
    once: bool = False,
    threads: int = 1,
    ready: Callable[[], None] | None = None,
) -> None:
    """Listen on the AF_UNIX socket ``path`` (made with mode 0600) and answer one session after another.

    Args:
        path: where to listen; must not exist, unless a killed worker left it.
        fault: specification of a registered fault, such as ``bit-flip``, applied to every result.
        seed: of the fault.
        once: stop after the first session.
        threads: of the products.
        ready: called when sessions can connect.

    Raises:
        WorkerUnreachable: the socket cannot be made.
        UnknownName, InvalidConfig: ``fault`` is not a fault.
    """
    distort = None if fault is None else _lie(fault, seed)
    torch.set_num_threads(threads)
    listener = _listen(Path(path))
    try:
        if ready is not None:
            ready()
        while True:
            stream, _ = listener.accept()
            connection = Connection(stream, timeout=None, peer="the session")
            Worker(distort).serve(connection)
            connection.close()
            if once:
                return
    finally:
        listener.close()
        Path(path).unlink(missing_ok=True)


def _lie(fault: str, seed: int) -> Callable[[str, Tensor], Tensor]:
    from holdfast.services.lie import Lie  # an honest worker starts without the fault machinery

    return Lie(fault, seed)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear_stale(path)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise WorkerUnreachable(
            f"cannot listen on {path}: {error.strerror or error}",
            hint="choose a short path that does not exist yet",
        ) from error
    return listener


def _clear_stale(path: Path) -> None:
    """Remove a socket that a killed worker left behind; leave a living one, and anything that is not a socket."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink()


def end_when_terminated() -> None:
    """Have SIGTERM end this process like an exit: the socket is removed, and the code is that of the signal."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker from the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="holdfast.services.worker", description=__doc__)
    parser.add_argument("--socket", required=True, help="path of the AF_UNIX socket to make")
    parser.add_argument("--fault", help="lie: a fault such as bit-flip, applied to every result")
    parser.add_argument("--seed", type=int, default=0, help="of the fault")
    parser.add_argument("--once", action="store_true", help="stop after the first session")
    parser.add_argument("--threads", type=int, default=1, help="of the products")
    options = parser.parse_args(arguments)
    end_when_terminated()
    try:
        serve(
            options.socket,
            fault=options.fault,
            seed=options.seed,
            once=options.once,
            threads=max(1, options.threads),
        )
    except HoldfastError as error:
        sys.stderr.write(f"error: {error}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
