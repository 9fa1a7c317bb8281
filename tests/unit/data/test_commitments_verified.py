"""Data that is checked before it is used, in this process, in workers, and over ranks."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import holdfast
from holdfast.data import Dataset
from holdfast.data.commitments import VerifiedImages, VerifiedSamples, checked, commit, merge
from holdfast.errors import DigestMismatch, IntegrityError, InvalidConfig, Unavailable
from holdfast.seeds import derive

from .ranks_of_a_training import rank_of

COUNT = 53


@pytest.fixture
def digits():
    return holdfast.dataset("digits", split="test").take(COUNT)


@pytest.fixture
def whole(digits):
    return commit(digits, "digits")


class Pairs(torch.utils.data.Dataset):
    """(sample, label) pairs; ``change`` maps an index to another pair."""

    def __init__(self, count=COUNT, change=None):
        self.count, self.change = count, change or {}

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.change.get(index, (torch.full((2, 3), index, dtype=torch.uint8), index % 5))


def drain(loader):
    return list(loader)


def test_ours_stays_a_dataset_and_gives_the_same_batches(digits, whole):
    data = checked(digits, whole)
    assert isinstance(data, VerifiedImages)
    assert isinstance(data, Dataset)
    assert data.digest == digits.digest
    indices = torch.tensor([5, 0, 17])
    for mine, theirs in zip(data.batch(indices), digits.batch(indices), strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(data.example, digits.example)
    for same in ([5, 0, 17], torch.tensor([5 - COUNT, 0, 17])):
        assert torch.equal(data.batch(same)[0], digits.batch(indices)[0])
    mask = torch.zeros(COUNT, dtype=torch.bool)
    mask[[0, 5, 17]] = True
    assert torch.equal(data.batch(mask)[1], digits.batch(mask)[1])
    assert data.standing().excess == 4 * 3 - 3
    image, label = data[17]
    assert torch.equal(image, digits.batch(indices)[0][2])
    assert label == int(digits.labels[17])


@pytest.mark.parametrize(
    ("workers", "start"), [(0, None), (1, "fork"), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)]
)
def test_an_epoch_of_any_workers_has_the_signed_digest(digits, whole, workers, start):
    for data in (checked(digits, whole), checked(Pairs(), commit(Pairs(), "pairs"))):
        loader = DataLoader(
            data,
            batch_size=7,
            shuffle=True,
            num_workers=workers,
            generator=torch.Generator().manual_seed(3),
            multiprocessing_context=start,
            persistent_workers=workers > 0,
        )
        for _ in range(2):
            assert sum(len(labels) for _, labels in loader) == COUNT
            epoch = data.require_complete()
            assert epoch.multiset == data.commitment.multiset
            assert epoch.excess == 0


def test_training_takes_it_as_the_dataset_it_is(digits, whole):
    from holdfast.models import build_architecture
    from holdfast.training import Standard, train

    data = checked(digits, whole)
    recipe = Standard(schedule=holdfast.Schedule(epochs=3, batch_size=16))
    mine = train(build_architecture("digits-cnn"), data, recipe, seed=1)
    plain = train(build_architecture("digits-cnn"), digits, recipe, seed=1)
    assert all(map(torch.equal, mine.state_dict().values(), plain.state_dict().values()))
    assert data.require_complete(passes=3).multiset.count == 3 * COUNT


def test_an_unfinished_epoch_names_what_is_missing(digits, whole):
    data = checked(digits, whole)
    drain(DataLoader(data, batch_size=10, drop_last=True))
    with pytest.raises(DigestMismatch, match=r"3 missing: '000000000050' of digits"):
        data.require_complete()
    standing = data.standing()
    assert len(standing.missing) == 3
    data.batch(torch.tensor([50, 51, 52]))
    assert data.require_complete().multiset == whole.commitment.multiset
    with pytest.raises(DigestMismatch, match="53 missing"):
        data.require_complete()  # the next epoch has begun


def test_repeats_are_named_and_not_counted_twice(digits, whole):
    data = checked(digits, whole)
    drain(DataLoader(data, batch_size=8))
    data.batch(torch.tensor([4, 4, 9]))
    standing = data.standing()
    assert standing.multiset == whole.commitment.multiset
    assert standing.excess == 3
    with pytest.raises(DigestMismatch, match=r"2 repeated: '000000000004' of digits, '000000000009'"):
        data.require_complete()
    assert data.require_complete(padding=3).repeated == (("digits", f"{4:012d}"), ("digits", f"{9:012d}"))


def test_sampling_with_replacement_is_not_an_epoch(digits, whole):
    data = checked(digits, whole)
    sampler = RandomSampler(data, replacement=True, generator=torch.Generator().manual_seed(0))
    drain(DataLoader(data, batch_size=8, sampler=sampler))
    with pytest.raises(DigestMismatch, match=r"missing.*repeated"):
        data.require_complete()


def test_65536_passes_do_not_cancel(digits):
    small = digits.take(2)
    data = checked(small, commit(small, "d"))
    for _ in range(64):
        data.batch(torch.arange(2).repeat(1024))
    assert data.standing(passes=65536).missing == ()
    with pytest.raises(DigestMismatch, match="repeated"):
        data.require_complete()
    assert data.require_complete(passes=65536).multiset.count == 2 * 65536


LIES = {
    "label": (lambda raw, labels: labels.__setitem__(7, (labels[7] + 1) % 10), "field 'class' differs, field 'label'"),
    "pixel": (lambda raw, labels: raw[7].view(-1).__setitem__(63, 200), "field 'image' differs"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_changed_sample_is_named_before_it_is_used(digits, whole, lie):
    change, sentence = LIES[lie]
    change(digits.raw, digits.labels)
    data = checked(digits, whole)
    data.batch(torch.tensor([6, 8]))
    with pytest.raises(DigestMismatch, match=rf"'000000000007' of digits \(index 7\).*{sentence}"):
        data.batch(torch.tensor([9, 7]))
    assert data.standing().multiset.count == 2  # nothing of the bad batch was counted


PAIR = torch.full((2, 3), 4, dtype=torch.uint8)
WRONG = {
    "label": ((PAIR, 3), "field 'label' differs"),
    "dtype": ((PAIR.to(torch.int16), 4), "field 'sample' differs"),
    "shape": ((PAIR.reshape(3, 2), 4), "field 'sample' differs"),
    "label type": ((PAIR, 4.0), "field 'label' differs"),
    "no label": ({"sample": PAIR}, "field 'label' is missing"),
    "more": ({"sample": PAIR, "label": 4, "weight": 2}, "field 'weight' is new"),
    "another sample": ((torch.full((2, 3), 9, dtype=torch.uint8), 4), "field 'sample' differs"),
}


@pytest.mark.parametrize(("change", "workers"), [*((change, 0) for change in WRONG), ("label", 1)])
def test_a_changed_pair_is_named_in_a_worker_too(change, workers):
    item, sentence = WRONG[change]
    data = checked(Pairs(change={4: item}), commit(Pairs(), "pairs"))
    with pytest.raises(DigestMismatch, match=rf"(?s)'000000000004' of pairs \(index 4\).*{sentence}"):
        drain(DataLoader(data, batch_size=5, num_workers=workers, collate_fn=list))


def test_augmentation_comes_after_the_check():
    data = checked(Pairs(), commit(Pairs(), "pairs"), transform=lambda pair: (pair[0].float() + 0.5, pair[1]))
    assert data[3][0].unique().tolist() == [3.5]
    augmenting = Pairs(change={0: (torch.full((2, 3), 0.5), 0)})
    with pytest.raises(DigestMismatch):
        checked(augmenting, commit(Pairs(), "pairs"))[0]


def test_the_checked_bytes_are_the_bytes_handed_out(tmp_path):
    """A file that is rewritten after the check does not reach the network."""
    path = tmp_path / "x.bin"
    np.arange(20, dtype=np.uint8).tofile(path)

    class Mapped:
        rows = np.memmap(path, np.uint8, "r", shape=(5, 4))

        def __len__(self):
            return 5

        def __getitem__(self, index):
            return self.rows[index], index

    data = checked(Mapped(), commit(Mapped(), "m"))
    sample, _ = data[2]
    with path.open("r+b") as file:
        file.write(bytes(20))
    assert sample.tolist() == [8, 9, 10, 11]
    with pytest.raises(DigestMismatch, match="index 2"):
        data[2]


def test_keys_are_compared_before_contents(digits, whole):
    with pytest.raises(DigestMismatch, match="extra in the dataset"):
        checked(holdfast.dataset("digits", split="test").take(COUNT + 1), whole)
    with pytest.raises(DigestMismatch, match="missing from the dataset: '000000000052'"):
        checked(digits.take(COUNT - 1), whole)
    with pytest.raises(DigestMismatch, match="repeated in the dataset"):
        checked(digits, whole, keys=[f"{max(place, 1):012d}" for place in range(COUNT)])
    with pytest.raises(InvalidConfig, match="2 keys for 53"):
        checked(digits, whole, keys=["a", "b"])


def test_a_declared_subset_is_what_an_epoch_uses(digits, whole):
    keys = [f"{place:012d}" for place in range(0, COUNT, 2)]
    data = checked(digits, whole, subset=keys)
    drain(DataLoader(Subset(data, range(0, COUNT, 2)), batch_size=4))
    assert data.require_complete().multiset.count == len(keys)
    data.batch(torch.arange(COUNT))
    with pytest.raises(DigestMismatch, match="26 extra: '000000000001'"):
        data.require_complete()
    for wrong, error in ((["nobody"], DigestMismatch), ([], InvalidConfig)):
        with pytest.raises(error):
            checked(digits, whole, subset=wrong)
    with pytest.raises(DigestMismatch, match="missing from the dataset"):
        checked(digits.take(3), whole, subset=keys)


def test_parts_of_a_checked_dataset_are_checked(digits, whole):
    data = checked(digits, whole)
    first, second = data.split(0.5, seed=1)
    assert isinstance(first, VerifiedImages)
    first.all()
    assert first.require_complete().multiset.count == len(first)
    second.raw[0, 0, 0, 0] ^= 1
    with pytest.raises(DigestMismatch, match="field 'image'"):
        second.all()
    assert data.standing().multiset.count == 0  # each has an account of its own


def test_sources_are_chosen_by_name(digits):
    both = merge("both", [commit(digits, "a"), commit(Pairs(), "b")])
    with pytest.raises(InvalidConfig, match="several sources"):
        checked(digits, both)
    data = checked(digits, both, source="a")
    data.all()
    assert data.require_complete().multiset == both.commitment.source("a").multiset
    mixed = TensorDataset(torch.arange(3), torch.arange(3))
    with pytest.raises(DigestMismatch, match="missing"):
        checked(mixed, both, keys=[("a", f"{0:012d}"), ("b", f"{0:012d}"), ("b", f"{1:012d}")])
    with pytest.raises(InvalidConfig, match="one source"):
        checked(digits.take(2), both, keys=[("a", "0" * 12), ("b", "0" * 12)], subset=[("a", "0" * 12)])


def test_one_dataset_may_span_sources():
    both = merge("both", [commit(Pairs(5), "a"), commit(Pairs(3), "b")])
    keys = [("a", f"{place:012d}") for place in range(5)] + [("b", f"{place:012d}") for place in range(3)]
    joined = torch.utils.data.ConcatDataset([Pairs(5), Pairs(3)])
    data = checked(joined, both, keys=keys)
    assert isinstance(data, VerifiedSamples)
    drain(DataLoader(data, batch_size=3, num_workers=2))
    assert data.require_complete().multiset == both.commitment.multiset


def test_a_worker_that_dies_while_it_counts_is_no_deadlock(digits, whole, monkeypatch):
    from holdfast.data.commitments import account

    monkeypatch.setattr(account, "_PATIENCE", 0.05)
    data = checked(digits, whole)
    data.checker.account._lock.acquire()  # what a killed worker leaves behind
    with pytest.raises(IntegrityError, match="died while it was counting"):
        data.batch(torch.tensor([0]))


def test_options_that_do_not_fit_are_refused(digits, whole):
    with pytest.raises(InvalidConfig, match="transform"):
        checked(digits, whole, transform=lambda item: item)
    with pytest.raises(Unavailable, match="no ranks"):
        checked(digits, whole).reduce()


def test_two_ranks_of_gloo(tmp_path):
    """Two epochs in each of two processes: the lanes are added up, a sampler's padding is not counted twice."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    ranks = [context.Process(target=rank_of, args=(rank, str(tmp_path / "meet"), queue)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0]
    said = sorted(queue.get() for _ in range(12))
    expected = {
        "greedy": "refused, the epoch did not use digits as signed: 47 repeated",
        "lazy": "refused, the epoch did not use digits as signed: 4 missing",
        "other": "refused, the ranks check against different commitments or subsets",
        "sampler": "complete, 1 too many over 2 ranks",
        "shares": "complete, 0 too many over 2 ranks",
        "split": "refused, since more was used after the ranks were added up",
    }
    for place, (mode, words) in enumerate(expected.items()):
        for line in said[2 * place : 2 * place + 2]:
            assert line.startswith(f"{mode}: {words}")


def test_padding_of_a_sampler_without_a_process_group(digits, whole):
    """What each rank of a DistributedSampler draws, accounted in one process."""
    data = checked(digits, whole)
    for rank in range(4):
        sampler = DistributedSampler(data, num_replicas=4, rank=rank, shuffle=True, seed=derive(0).key % 100)
        drain(DataLoader(data, batch_size=5, sampler=sampler))
    assert data.standing().excess == 3  # 53 samples on 4 ranks are 56
    assert data.require_complete(padding=3).multiset == whole.commitment.multiset
