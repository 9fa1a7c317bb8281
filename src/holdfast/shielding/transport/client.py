"""The trusted side of the conversation with a worker: ask, wait for the one fitting answer, or end it."""

from __future__ import annotations

import torch
from torch import Tensor

import holdfast
from holdfast.errors import IntegrityError, InvalidConfig, UnsupportedVersion, WorkerUnreachable
from holdfast.seeds import Entropy
from holdfast.shielding.product import MOST_PLANES, Geometry
from holdfast.shielding.transport.wire import Channel, Frame, Kind

_NO_BODY = 0
_MEANING = {
    "nonce": "an answer of another session",
    "sequence": "an old answer, or answers in another order",
    "mask": "an answer to a message under another mask",
    "layer": "an answer for another layer",
}


class Client:
    """Questions to one worker; any answer but the due one ends the conversation.

    What comes back has the right session, layer, sequence number, mask, dtype and shape. Whether it is *true* is not
    decided here.

    Args:
        channel: to a worker.
        entropy: source of the nonce that every answer of this session must carry.

    Attributes:
        worker: what the worker says about itself: ``tool``, ``kernel``, ``device``. Its own word, nothing more.

    Raises:
        WorkerUnreachable, UnsupportedVersion: nobody, or another version, answers.
        IntegrityError: the answer is for another session.
    """

    def __init__(self, channel: Channel, *, entropy: Entropy) -> None:
        self._channel: Channel | None = channel
        self._sequence, self._nonce = 0, entropy.bytes(16).hex()
        greeting = {"tool": holdfast.__version__, "nonce": self._nonce}
        answer = self._ask(Frame(Kind.HELLO, greeting), Kind.HELLO)
        if (theirs := answer.header.get("tool")) != holdfast.__version__:
            self.close()
            raise UnsupportedVersion(
                f"the worker is Holdfast {theirs!r}, this is {holdfast.__version__}",
                hint="install the same version on both sides",
            )
        self._require_echo(answer, {"nonce": self._nonce})
        self.worker = {key: str(answer.header.get(key, ""))[:100] for key in ("tool", "kernel", "device")}

    @property
    def closed(self) -> bool:
        """Whether the conversation is over."""
        return self._channel is None

    def require_open(self) -> Channel:
        """Return the channel.

        Raises:
            InvalidConfig: it is closed.
        """
        if self._channel is None:
            raise InvalidConfig("the session is closed", hint="open a new one with shield()")
        return self._channel

    def load(
        self, layer: str, geometry: Geometry, codes: Tensor, *, sample: tuple[int, ...] | None = None, planes: int = 1
    ) -> None:
        """Give the worker the int8 weights of a layer.

        Args:
            sample: shape of the samples to come, so that a worker with several ways to multiply can try them now.
            planes: byte planes of the messages to come.
        """
        header: dict[str, object] = {"layer": layer, "geometry": geometry.to_json(), "nonce": self._nonce}
        if sample is not None:
            header |= {"sample": list(sample), "planes": planes}
        answer = self._ask(Frame(Kind.LOAD, header, codes), Kind.LOADED)
        self._require_echo(answer, {"layer": layer, "nonce": self._nonce})

    def multiply(
        self, layer: str, message: Tensor, wanted: tuple[int, ...], *, mask: int = -1, planes: int = MOST_PLANES
    ) -> Tensor:
        """Return what the worker claims is the product of the message, int32 of shape ``wanted``.

        Args:
            message: int8, (planes, batch, *sample); see :func:`~holdfast.shielding.product.planes_product`.
            mask: number of the first mask over the message; -1 for codes in the clear.
            planes: bytes to which the worker must reduce the product.

        Raises:
            IntegrityError: an answer of another form; names the layer.
            WorkerUnreachable: none in time.
        """
        self._sequence += 1
        header = {"layer": layer, "sequence": self._sequence, "nonce": self._nonce, "mask": mask}
        answer = self._ask(Frame(Kind.RUN, header | {"bytes": planes}, message), Kind.RESULT, shape=wanted)
        self._require_echo(answer, header)
        if answer.body is None:
            self.close()
            raise IntegrityError(f"the worker answered without a product for layer {layer!r}")
        return answer.body.to(message.device)

    def close(self) -> None:
        """Say goodbye and close the channel; more than once does no harm."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        try:
            channel.send(Frame(Kind.BYE, {"nonce": self._nonce}))
        except WorkerUnreachable:
            return  # it is gone already, which is what was wanted
        finally:
            channel.close()

    def _ask(self, question: Frame, kind: Kind, *, shape: tuple[int, ...] | None = None) -> Frame:
        channel = self.require_open()
        try:
            channel.send(question)
            answer = channel.receive(shape=shape, max_body=_NO_BODY if shape is None else _bytes(shape))
            if answer.kind is Kind.ERROR:
                raise WorkerUnreachable(f"the worker refused: {answer.header.get('message')!s:.300}")
            if answer.kind is not kind:
                raise IntegrityError(f"the worker answered {answer.kind.name} instead of {kind.name}")
        except (IntegrityError, UnsupportedVersion) as error:
            self.close()
            raise _in_layer(error, question) from error
        except WorkerUnreachable as error:
            self.close()
            error.hint = error.hint or "the session is closed; start the worker again and open a new one"
            raise
        return answer

    def _require_echo(self, answer: Frame, header: dict[str, object]) -> None:
        for key, ours in header.items():
            if (theirs := answer.header.get(key)) != ours:
                self.close()
                raise IntegrityError(
                    f"the worker answered {key} {theirs!r:.60} when asked for {ours!r}",
                    hint=f"{_MEANING[key]}; the session is closed",
                )


def _bytes(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel() * 4


def _in_layer(error: IntegrityError | UnsupportedVersion, question: Frame) -> IntegrityError | UnsupportedVersion:
    if (layer := question.header.get("layer")) is None:
        return error
    hint = error.hint or "do not trust this worker; the session is closed"
    return type(error)(f"{error} (layer {layer!r})", hint=hint)
