"""Tensors between two ranks, never pickles: what is read is a head of known size, and as many values as it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from holdfast.errors import Unavailable

END = 0  # in place of what is asked for: nothing follows
_FAILED = -1  # in place of a dtype: what follows is a message
_LIMIT = 1 << 28  # bytes or values of one message
_DTYPES = (torch.uint8, torch.float32)


@dataclass(frozen=True)
class Line:
    """Tensors to and from one rank: a head of eight numbers (dtype, dimensions, sizes), then the values."""

    peer: int
    backend: str

    @property
    def _device(self) -> torch.device:
        # NCCL moves what lies on GPUs only
        return torch.device("cuda", torch.cuda.current_device()) if self.backend == "nccl" else torch.device("cpu")

    def send_numbers(self, what: int) -> None:
        """Send one number: what is asked for, or that this was all."""
        self._moved(torch.tensor([what]), dist.send)

    def receive_numbers(self) -> int:
        """Wait for one number."""
        return int(self._moved(torch.zeros(1, dtype=torch.int64), dist.recv)[0])

    def send(self, tensor: Tensor) -> None:
        """Send a tensor of octets or float32, of six dimensions at most."""
        sizes = list(tensor.shape) + [0] * (6 - tensor.dim())
        self._moved(torch.tensor([_DTYPES.index(tensor.dtype), tensor.dim(), *sizes]), dist.send)
        if tensor.numel():
            self._moved(tensor.contiguous(), dist.send)

    def receive(self) -> Tensor:
        """Wait for a tensor.

        Raises:
            Unavailable: the rank is silent, failed, or sent what is no message.
        """
        kind, dimensions, *sizes = self._moved(torch.zeros(8, dtype=torch.int64), dist.recv).tolist()
        failed = kind == _FAILED
        shape = sizes[:1] if failed else sizes[: max(0, min(dimensions, 6))]
        count = int(torch.tensor(shape).prod()) if shape else 1
        if (not failed and kind not in range(len(_DTYPES))) or min(shape, default=0) < 0 or count > _LIMIT:
            raise Unavailable(f"rank {self.peer} sent what is no message")
        values = torch.empty(shape, dtype=torch.uint8 if failed else _DTYPES[kind])
        if count:
            values = self._moved(values, dist.recv)
        if failed:
            raise Unavailable(f"rank {self.peer} failed: {bytes(values.tolist()).decode(errors='replace')}")
        return values

    def tell(self, message: str) -> None:
        """Send an error in place of an answer."""
        octets = torch.frombuffer(bytearray(message.encode() or b"?"), dtype=torch.uint8)
        self._moved(torch.tensor([_FAILED, 1, len(octets), 0, 0, 0, 0, 0]), dist.send)
        self._moved(octets, dist.send)

    def end(self) -> None:
        """Tell the rank that nothing follows; one that is gone does not hear it."""
        try:
            self.send_numbers(END)
        except Unavailable:
            return

    def _moved(self, tensor: Tensor, move: Any) -> Tensor:
        placed = tensor.to(self._device)
        try:
            move(placed, self.peer)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise Unavailable(f"rank {self.peer} does not answer: {reason}", hint="see what it printed") from error
        return placed.cpu()
