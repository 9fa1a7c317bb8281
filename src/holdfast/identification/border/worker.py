"""A process that stays one platform: settings read at start-up cost one start for a whole search, not one a question.

Spoken over pipes: a length (8 bytes, little-endian) and a safetensors file, one question and one answer at a time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from holdfast._files import read_bytes, write_atomic
from holdfast.data import Dataset, Preprocessing
from holdfast.data.dataset import UNLABELLED
from holdfast.errors import Unavailable
from holdfast.evidence import canonical
from holdfast.identification.border.setting import answers, host_of, next_logits, setting_bytes, setting_from
from holdfast.identification.platforms.process import environment_for, timeout_of
from holdfast.identification.settings import Setting
from holdfast.models import load as load_model
from holdfast.models import save as save_model

_LIMIT = 1 << 31


@dataclass(frozen=True)
class Worker:
    """One running interpreter under the environment of a platform."""

    name: str
    process: subprocess.Popen[bytes]
    said: Path  # what it wrote on stderr
    timeout: float  # seconds for one answer

    @classmethod
    @contextmanager
    def start(cls, platform: Setting, model: nn.Module) -> Iterator[Worker]:
        """Start a worker for ``model`` and end it with the block."""
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            save_model(model, folder / "model")
            write_atomic(folder / "platform.json", setting_bytes(platform))
            command = [sys.executable, "-m", "holdfast.identification.border.worker", place]
            environment = environment_for(host_of(platform))
            pipe, said = subprocess.PIPE, folder / "stderr"
            with said.open("wb") as words:  # a file: nobody has to read it for the worker to go on
                process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=words)  # noqa: S603
            try:
                yield cls(platform.name, process, said, timeout_of(host_of(platform)))
            finally:
                process.kill()
                process.communicate()

    def ask(self, data: Dataset) -> Tensor:
        """Return the outputs (n, classes) of ``data``.

        Raises:
            Unavailable: the worker ended, or did not answer in time.
        """
        return self._exchange({"raw": data.raw.contiguous(), "preprocessing": _octets(data.preprocessing)})

    def ask_next(self, tokens: Tensor) -> Tensor:
        """Return the logits (n, vocabulary) that follow prompts (n, t), int64; raises as :meth:`ask`."""
        return self._exchange({"tokens": tokens.contiguous()})

    def _exchange(self, question: dict[str, Tensor]) -> Tensor:
        watchdog = threading.Timer(self.timeout, self.process.kill)
        watchdog.start()
        try:
            _send(_pipe(self.process.stdin), save(question))
            return load(_receive(_pipe(self.process.stdout)))["outputs"]
        except (OSError, EOFError) as error:
            raise Unavailable(f"the platform {self.name} stopped answering: {self._last_words()}") from error
        finally:
            watchdog.cancel()

    def _last_words(self) -> str:
        lines = self.said.read_text(errors="replace").strip().splitlines()
        return " ".join(lines[-1:]) or "it said nothing"


def main(folder: Path, questions: BinaryIO, replies: BinaryIO) -> None:
    """Answer questions about the model in ``folder`` until they end."""
    platform = setting_from(read_bytes(folder / "platform.json", "platform"))
    model = load_model(folder / "model", own=True)
    answer, follow = answers(model, platform), list[Callable[[Tensor], Tensor]]()
    while True:
        try:
            parts = load(_receive(questions))
        except EOFError:
            return
        if "tokens" in parts and not follow:
            follow.append(next_logits(model, platform))
        outputs = follow[0](parts["tokens"]) if "tokens" in parts else answer(_data(parts))
        _send(replies, save({"outputs": outputs.contiguous()}))


def _data(parts: dict[str, Tensor]) -> Dataset:
    value = canonical.loads(bytes(parts["preprocessing"].tolist()), what="preprocessing")
    labels = torch.full((len(parts["raw"]),), UNLABELLED)
    return Dataset("question", parts["raw"], labels, (), Preprocessing.from_json(value))


def _octets(preprocessing: Preprocessing) -> Tensor:
    return torch.frombuffer(bytearray(canonical.dumps(preprocessing.to_json())), dtype=torch.uint8)


def _pipe(stream: object) -> BinaryIO:
    if stream is None:
        raise EOFError
    return stream  # type: ignore[return-value]


def _send(stream: BinaryIO, data: bytes) -> None:
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def _receive(stream: BinaryIO) -> bytes:
    head = stream.read(8)
    size = int.from_bytes(head, "little")
    if len(head) < 8 or size > _LIMIT:
        raise EOFError
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
