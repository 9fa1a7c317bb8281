"""What each of two processes does in the test of verified data over gloo."""

from __future__ import annotations

from datetime import timedelta
from multiprocessing import SimpleQueue

import torch
from torch import distributed
from torch.utils.data import DataLoader, Subset
from torch.utils.data.distributed import DistributedSampler

import holdfast
from holdfast.data.commitments import VerifiedImages, checked, commit
from holdfast.errors import DigestMismatch

RANKS, COUNT, EPOCHS = 2, 47, 2


def rank_of(rank: int, meeting: str, said: SimpleQueue) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    data = holdfast.dataset("digits", split="test").take(COUNT)
    for mode in ("sampler", "shares", "split", "greedy", "lazy", "other"):
        said.put(f"{mode}: {outcome(data, rank, mode)}")
    distributed.destroy_process_group()


def outcome(data: holdfast.data.Dataset, rank: int, mode: str) -> str:
    verified = checked(data, commit(data, "elsewhere" if mode == "other" and rank else "digits"))
    try:
        for epoch in range(EPOCHS):
            for _ in loader(verified, rank, mode, epoch):
                pass
            standing = verified.reduce()
            if mode == "split" and epoch:  # what is used after the ranks were added up is not covered by their sum
                verified.batch(torch.tensor([0]))
                assert len(verified.standing().missing) > len(standing.missing)
                return stale(verified)
            done = verified.require_complete()  # the padding of two ranks is one sample at most
    except DigestMismatch as error:
        return f"refused, {error}"
    assert done.multiset == verified.commitment.multiset
    assert done.to_json()["digest"] == verified.commitment.digest
    assert done.to_json()["ranks"] == RANKS
    return f"complete, {done.excess} too many over {done.ranks} ranks"


def stale(verified: VerifiedImages) -> str:
    try:
        verified.require_complete()
    except DigestMismatch:
        return "refused, since more was used after the ranks were added up"
    return "complete"


def loader(data: object, rank: int, mode: str, epoch: int) -> DataLoader:
    if mode == "sampler":
        sampler = DistributedSampler(data, RANKS, rank, shuffle=True, seed=5)
        sampler.set_epoch(epoch)
        return DataLoader(data, batch_size=5, sampler=sampler, num_workers=2 * (epoch == 0))
    share = {
        "shares": range(rank, COUNT, RANKS),
        "split": range(rank, COUNT, RANKS),
        "other": range(rank, COUNT, RANKS),
        "greedy": range(COUNT),
        "lazy": range(rank, COUNT - 4, RANKS),
    }[mode]
    return DataLoader(Subset(data, share), batch_size=5)
