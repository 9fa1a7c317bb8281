"""Small models, and a worker in a thread that a test can make lie in any way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn

from holdfast.errors import WorkerUnreachable
from holdfast.seeds import Entropy
from holdfast.services.worker import Worker
from holdfast.shielding import Freivalds, Session, int8_model
from holdfast.shielding.transport import Connection, Frame, Kind

Answer = Callable[[Frame, Frame, socket.socket], Frame | None]


class DigitsNet(nn.Module):
    """Convolutions of several strides, kernels and paddings, batch norm, a residual add, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding="same")
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.down = nn.Conv2d(8, 12, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2))
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.head = nn.Linear(12 * 9, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.body(x))
        x = torch.relu(self.down(self.depthwise(x)))
        return self.head(self.pool(x).flatten(1))


def digits_net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = DigitsNet()
        net.norm.running_mean.uniform_(-0.2, 0.2)
        net.norm.running_var.uniform_(0.5, 2.0)
    return net.eval()


def images(count: int, seed: int = 1) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def integer_net() -> nn.Module:
    return int8_model(digits_net(), images(32, seed=2))


def honest(question: Frame, answer: Frame, stream: socket.socket) -> Frame | None:
    return answer


def session_with(model: nn.Module, answer: Answer = honest, *, timeout: float = 5.0, **options: object) -> Session:
    """Open a session with a worker in a thread whose answers pass through ``answer``; None sends nothing more."""
    here, there = socket.socketpair()

    def run() -> None:
        worker, connection = Worker(), Connection(there, timeout=None, peer="the session")
        try:
            while True:
                question = connection.receive()
                if question.kind is Kind.BYE:
                    return
                reply = answer(question, worker.answer(question), there)
                if reply is not None:
                    connection.send(reply)
        except (WorkerUnreachable, ValueError, OSError):
            there.close()

    threading.Thread(target=run, daemon=True).start()
    settings: dict[str, object] = {"check": Freivalds(), "entropy": Entropy()} | options
    channel = Connection(here, timeout=timeout, peer="the worker")
    return Session(model, channel, **settings)  # type: ignore[arg-type]
