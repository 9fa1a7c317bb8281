"""Opening a session: find or start a worker, and agree on who computes what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.seeds import Entropy
from holdfast.shielding.checking import Check, Freivalds, require_entropy
from holdfast.shielding.offloaded import Placements, agreed
from holdfast.shielding.sealing import Budget, MaskStream, Spill
from holdfast.shielding.session import Session
from holdfast.shielding.transport import Channel, MutualTls, SpawnedWorker, dial
from holdfast.shielding.transport.remote import dial_remote
from holdfast.shielding.transport.spawn import RING_BYTES

_DISK = 2**34  # bytes a spill folder may hold
_LONGEST = 86_400.0  # seconds: a day, which sockets can still wait for


def shield(
    model: nn.Module,
    worker: str = "spawn",
    *,
    check: Check | None = None,
    placements: Placements | None = None,
    timeout: float = 60.0,
    worker_options: Sequence[str] = (),
    tls: MutualTls | None = None,
    masks: MaskStream | None = None,
    memory: int | None = None,
    spill: Path | str | None = None,
    entropy: Entropy | None = None,
) -> Session:
    """Open a session in which an untrusted process computes the integer products of ``model``.

    Args:
        model: from :func:`~holdfast.shielding.int8_model`.
        worker: ``"spawn"`` starts one in a process of its own (under a user of its own where we are root);
            ``"unix:PATH"`` and ``"shared:PATH"`` reach one that listens on this machine, the second through shared
            memory; ``"grpc:HOST:PORT"`` one on another machine.
        check: how every answer is verified; by default :class:`~holdfast.shielding.Freivalds`.
        placements: where each integer layer runs, by name, or one word for all. ``"blinded"``, the default: by the
            worker, checked, behind one-time pads. ``"verified"``: by the worker, checked, but **the worker reads the
            int8 activations**. ``"trusted"``: here.
        timeout: seconds to wait for the worker to start, and for each answer.
        worker_options: extra arguments for a spawned worker, e.g. ``("--fault", "bit-flip", "--seed", "1")``.
        tls: who we are and whom we trust; needed by ``grpc:`` and by nothing else. There is no way without it.
        masks: a stream of masks that outlives this session; by default a fresh one.
        memory: most bytes of masks and unblinding vectors at a time, prepared or in use; None is no limit. A batch
            whose masks do not fit goes to the worker in parts.
        spill: a folder for sealed vectors beyond ``memory``; each session has one of its own inside it.
        entropy: source of masks and challenges; an experiment's Seed is refused.

    Raises:
        InvalidConfig: no integer layer, a bad address, placement or time-out, a Seed where Entropy is needed, memory
            that is no whole number of bytes, or less of it than the masks of one sample take in one layer.
        NoSuchSite: a placement of a layer that does not exist.
        WorkerUnreachable: nobody answers in time.
        UnsupportedVersion: the worker is another version.
        IntegrityError: somebody else answers than should.
    """
    entropy = Entropy() if entropy is None else entropy
    require_entropy(entropy, what="a session")
    _require_sense(worker, placements, timeout, memory, worker_options)  # before anything starts
    placements, budget = agreed(model, placements), Budget(memory)
    folder = None if spill is None else Spill(spill, limit=_DISK)
    owner = SpawnedWorker(worker_options) if worker == "spawn" else None
    try:
        return Session(
            model,
            _reach(worker, owner, timeout, tls),
            check=check if check is not None else Freivalds(),
            placements=placements,
            entropy=entropy,
            masks=masks,
            budget=budget,
            spill=folder,
            owner=owner,
        )
    except BaseException:
        for own in (owner, folder):
            if own is not None:
                own.close()
        raise


def _require_sense(worker: object, placements: object, timeout: object, memory: object, worker_options: object) -> None:
    """Refuse arguments of a kind that nothing could be done with.

    Raises:
        InvalidConfig: there is one.
    """
    if not isinstance(worker, str):
        raise InvalidConfig(f"a worker is a word or an address, not {worker!r}", hint='such as "spawn" or "unix:PATH"')
    if placements is not None and not isinstance(placements, str | Mapping):
        hint = "a word for all layers, or a mapping from their names"
        raise InvalidConfig(f"placements are {placements!r}", hint=hint)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST:
        hint = f"a positive number of seconds, {_LONGEST:g} at most"
        raise InvalidConfig(f"a time-out is {timeout!r}", hint=hint)
    if memory is not None and (not isinstance(memory, int) or isinstance(memory, bool)):
        raise InvalidConfig(f"a memory limit is {memory!r}", hint="a whole number of bytes, or None for no limit")
    if isinstance(worker_options, str) or not isinstance(worker_options, Sequence):
        raise InvalidConfig(f"worker options are {worker_options!r}", hint='a sequence, such as ("--seed", "1")')


def _reach(worker: str, owner: SpawnedWorker | None, timeout: float, tls: MutualTls | None) -> Channel:
    remote = worker.startswith("grpc:")
    if tls is not None and not remote:
        raise InvalidConfig(f"tls is for grpc:HOST:PORT, not for {worker!r}", hint="sockets of this machine need none")
    if owner is not None:
        return owner.connect(timeout, ring=RING_BYTES)
    return dial_remote(worker.removeprefix("grpc:"), tls, timeout=timeout) if remote else dial(worker, timeout=timeout)
