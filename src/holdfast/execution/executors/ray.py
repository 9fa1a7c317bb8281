"""Run blocks on a Ray cluster: the same table as inline, on as many machines as there are.

A block is one task. Ray sends it again when the machine that ran it is lost, and only the calling process writes the
store, so a lost machine costs nothing but the time of its unfinished blocks. Ray carries the model to the machines of
the cluster as a pickle and trusts them: use a cluster of your own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any
from uuid import uuid4

import torch

from holdfast._extras import extra
from holdfast.errors import InvalidConfig, MissingDevice, WorkerUnreachable
from holdfast.execution.executors.answers import answer, opened
from holdfast.execution.executors.catalogue import executors
from holdfast.execution.knobs import adopt, knobs_of, settings
from holdfast.execution.plan import Block
from holdfast.execution.platform import KNOBS, describe_platform
from holdfast.execution.trials import Row, TrialRunner

_THREADS = ("MKL_NUM_THREADS", "OMP_NUM_THREADS")  # every task computes on one thread, whatever these say
_PATIENCE = 5.0  # seconds until a cluster counts as unreachable
_tasks: dict[str, Callable[[int], Any]] = {}  # what this worker process runs; one at a time, since models are large


@executors.register("ray")
@dataclass(frozen=True, slots=True, kw_only=True)
class Ray:
    """A Ray cluster, one torch thread per task, or one GPU where the model is on one; needs the ``ray`` extra.

    Attributes:
        address: of a running cluster, as ``ray.init`` takes it; empty for the one this process is connected to, or
            else a new one on this machine for as long as the campaign runs.
        ahead: tasks sent out beyond the processors there are, so that none waits.
    """

    address: str = ""
    ahead: int = 2

    def run(self, runner: TrialRunner, blocks: Sequence[Block]) -> Iterator[list[Row]]:
        """Yield the rows of each block as they come.

        Raises:
            InvalidConfig: the model is a session, whose connection cannot be shared, or a machine of the cluster
                would round differently from this one.
            MissingExtra: Ray is not installed.
            WorkerUnreachable: there is no cluster at the address.
        """
        if runner.exclusive:
            raise InvalidConfig("a session cannot be shared between machines", hint="use executor='inline'")
        for _, rows in self.map(_Rows(runner, blocks), range(len(blocks))):
            yield [Row(*values) for values in rows]

    def map(self, task: Callable[[int], Any], items: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield (item, what ``task`` made of it) as they come; a result is JSON, and so are lists where tuples were.

        Raises:
            InvalidConfig: a machine of the cluster would round differently from this one.
            MissingExtra: Ray is not installed.
            WorkerUnreachable: there is no cluster at the address.
        """
        device = getattr(getattr(task, "runner", None), "device", torch.device("cpu"))
        resource, share = ("GPU", {"num_gpus": 1}) if device.type == "cuda" else ("CPU", {})
        with _cluster(self.address) as ray:
            if resource not in ray.cluster_resources():
                raise MissingDevice("the cluster has no GPU, and the model is on one", hint="start Ray with --num-gpus")
            remote = ray.remote(num_cpus=1, max_retries=-1, **share)(_on_worker)
            here = (
                uuid4().hex,
                _arithmetic(device),
                settings(),
                ray.put(task),
            )  # in a tuple, or Ray would unpack it for every item
            waiting = iter(items)
            running: list[Any] = []
            while True:
                while len(running) < int(ray.cluster_resources().get(resource, 1)) + self.ahead:
                    if (item := next(waiting, None)) is None:
                        break
                    running.append(remote.remote(here, item))
                if not running:
                    return
                done, running = ray.wait(running)
                yield from map(opened, ray.get(done))


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a block; Ray gives each of these tasks a GPU where the runner's model is on one."""

    runner: TrialRunner
    blocks: Sequence[Block]

    def __call__(self, place: int) -> Any:
        return [astuple(row) for row in self.runner(self.blocks[place])]


def _on_worker(sent: tuple[str, dict[str, Any], dict[str, Any], Any], item: int) -> bytes:
    """Answer one item in a process of the cluster, which keeps the task for the items that follow."""
    import ray

    key, arithmetic, given, reference = sent
    if key not in _tasks:
        torch.set_num_threads(1)
        adopt(given)
        _tasks.clear()
        _tasks[key] = ray.get(reference)
    return answer(lambda place: _same(arithmetic, _tasks[key], place), item)


def _same(arithmetic: dict[str, Any], task: Callable[[int], Any], item: int) -> Any:
    here = _arithmetic(getattr(getattr(task, "runner", None), "device", torch.device("cpu")))
    if differ := [name for name, value in arithmetic.items() if here[name] != value]:
        raise InvalidConfig(
            f"a machine of the cluster is another platform: it differs in {', '.join(differ)}",
            hint="golden bits are those of one platform; use machines of one kind and one installation",
        )
    with torch.no_grad():
        return task(item)


def _arithmetic(device: torch.device) -> dict[str, Any]:
    """Return what decides how this process rounds when it computes on one thread, or on the GPU that it was given."""
    known = describe_platform().to_json() | {"threads": 1, "gpu": knobs_of(device)}  # others may be seen, or none
    return known | {"knobs": {name: value for name, value in known["knobs"].items() if name not in _THREADS}}


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Connect to a cluster for the length of the block, unless this process already is connected."""
    ray = extra("ray", name="ray", needs="the ray executor needs Ray")
    if ray.is_initialized() and not address:
        yield ray
        return
    knobs = {name: os.environ[name] for name in KNOBS if name in os.environ}
    options: dict[str, Any] = {
        "log_to_driver": False,
        "include_dashboard": None if address else False,
        "namespace": "holdfast",
    }
    try:
        _knock(address)
        ray.init(address=address or "local", runtime_env={"env_vars": knobs}, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise WorkerUnreachable(
            f"no Ray cluster at {address or 'this machine'}: {next(iter(str(error).splitlines()), '')}",
            hint="start one with 'ray start --head', or give no address to use this machine",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise :class:`OSError` when nobody answers at ``host:port``; Ray itself would go on trying for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
