"""The trusted side of the conversation with a worker: ask, wait for the one fitting answer, or end it."""

from __future__ import annotations

import socket

import torch
from torch import Tensor

import holdfast
from holdfast.errors import IntegrityError, InvalidConfig, UnsupportedVersion, WorkerUnreachable
from holdfast.shielding.product import Geometry
from holdfast.shielding.transport.wire import Connection, Frame, Kind

_NO_BODY = 0


class Client:
    """Questions to one worker; any answer but the due one ends the conversation.

    What comes back has the right layer, sequence number, dtype and shape. Whether it is *true* is not decided here.

    Args:
        stream: a connected socket.
        timeout: seconds for one frame.

    Raises:
        WorkerUnreachable, UnsupportedVersion: nobody, or another version, answers.
    """

    def __init__(self, stream: socket.socket, *, timeout: float) -> None:
        self._connection: Connection | None = Connection(stream, timeout=timeout, peer="the worker")
        self._sequence = 0
        answer = self._ask(Frame(Kind.HELLO, {"tool": holdfast.__version__}), Kind.HELLO)
        if (theirs := answer.header.get("tool")) != holdfast.__version__:
            self.close()
            raise UnsupportedVersion(
                f"the worker is Holdfast {theirs!r}, this is {holdfast.__version__}",
                hint="install the same version on both sides",
            )

    @property
    def closed(self) -> bool:
        """Whether the conversation is over."""
        return self._connection is None

    def require_open(self) -> Connection:
        """Return the connection.

        Raises:
            InvalidConfig: it is closed.
        """
        if self._connection is None:
            raise InvalidConfig("the session is closed", hint="open a new one with shield()")
        return self._connection

    def load(self, layer: str, geometry: Geometry, codes: Tensor) -> None:
        """Give the worker the int8 weights of a layer."""
        header = {"layer": layer, "geometry": geometry.to_json()}
        answer = self._ask(Frame(Kind.LOAD, header, codes.to(torch.int32)), Kind.LOADED)
        self._require_echo(answer, {"layer": layer})

    def multiply(self, layer: str, message: Tensor, wanted: tuple[int, ...]) -> Tensor:
        """Return what the worker claims is the product of int32 ``message`` (batch, *sample), of shape ``wanted``.

        Raises:
            IntegrityError: an answer of another form; names the layer.
            WorkerUnreachable: none in time.
        """
        self._sequence += 1
        header = {"layer": layer, "sequence": self._sequence}
        answer = self._ask(Frame(Kind.RUN, header, message), Kind.RESULT, shape=wanted)
        self._require_echo(answer, header)
        if answer.body is None:
            self.close()
            raise IntegrityError(f"the worker answered without a product for layer {layer!r}")
        return answer.body.to(message.device)

    def close(self) -> None:
        """Say goodbye and close the socket; more than once does no harm."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.send(Frame(Kind.BYE))
        except WorkerUnreachable:
            return  # it is gone already, which is what was wanted
        finally:
            connection.close()

    def _ask(self, question: Frame, kind: Kind, *, shape: tuple[int, ...] | None = None) -> Frame:
        connection = self.require_open()
        try:
            connection.send(question)
            answer = connection.receive(shape=shape, max_body=_NO_BODY if shape is None else _bytes(shape))
            if answer.kind is Kind.ERROR:
                raise WorkerUnreachable(f"the worker refused: {answer.header.get('message')!s:.300}")
            if answer.kind is not kind:
                raise IntegrityError(f"the worker answered {answer.kind.name} where {kind.name} was due")
        except (IntegrityError, UnsupportedVersion) as error:
            self.close()
            raise _in_layer(error, question) from error
        except WorkerUnreachable as error:
            self.close()
            error.hint = error.hint or "the session is closed; start the worker again and open a new one"
            raise
        return answer

    def _require_echo(self, answer: Frame, header: dict[str, object]) -> None:
        named = {key: answer.header.get(key) for key in header}
        if named != header:
            self.close()
            raise IntegrityError(f"the worker answered {named} when asked for {header}", hint="the session is closed")


def _bytes(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel() * 4


def _in_layer(error: IntegrityError | UnsupportedVersion, question: Frame) -> IntegrityError | UnsupportedVersion:
    if (layer := question.header.get("layer")) is None:
        return error
    hint = error.hint or "do not trust this worker; the session is closed"
    return type(error)(f"{error} (layer {layer!r})", hint=hint)
