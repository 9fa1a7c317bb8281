"""One digest for one set of samples, however it was cut, shuffled, merged or spread; another for any other set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data.distributed import DistributedSampler

from holdfast.data import Dataset
from holdfast.data.commitments import MultisetHash, checked, commit, merge, read_table, subtract, write_table
from holdfast.data.commitments.element import Encoder
from holdfast.data.commitments.values import typed
from holdfast.errors import DigestMismatch, HoldfastError, InvalidConfig
from holdfast.signing import generate_key
from holdfast.signing.datasets import sign_commitment, verify_commitment

DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float32", "float64", "bool")
SHORT = settings(deadline=None, max_examples=60)  # a loaded machine is not a failure
names = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=6)
arrays = st.builds(
    lambda dtype, shape, seed: (np.arange(int(np.prod(shape))) * 7 + seed).astype(dtype).reshape(shape),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 50),
)
plain = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), names, st.binary(max_size=5)
)
values = st.one_of(
    arrays,
    st.recursive(
        plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=5
    ),
)
samples = st.dictionaries(names, values, min_size=1, max_size=3)
datasets = st.dictionaries(names, samples, min_size=1, max_size=8)


def encoded(fields):
    """What a reader would take for the same sample: values with types and shapes, names in order."""
    return [(name, typed(fields[name])) for name in sorted(fields)]


@SHORT
@given(datasets, st.randoms(use_true_random=False))
def test_any_order_gives_one_commitment(data, random):
    pairs = list(data.items())
    base = commit(pairs, "d")
    random.shuffle(pairs)
    assert commit(pairs, "d").commitment == base.commitment
    assert read_table(write_table(base.table)).rows == base.table.rows


@SHORT
@given(datasets, st.integers(1, 4), st.randoms(use_true_random=False))
def test_any_split_merges_to_one_commitment(data, pieces, random):
    parts = [[] for _ in range(pieces)]
    for pair in data.items():
        random.choice(parts).append(pair)
    whole = commit(data.items(), "d")
    made = [commit(part, "d") for part in parts if part]
    assert merge("d", made).commitment == whole.commitment
    assert sum((one.commitment.multiset for one in made), MultisetHash()).digest == whole.commitment.digest


@SHORT
@given(datasets, st.data())
def test_what_is_subtracted_was_never_there(data, draw):
    leaving = draw.draw(st.sets(st.sampled_from(sorted(data)), max_size=len(data) - 1))
    rest = subtract(commit(data.items(), "d"), [("d", key) for key in leaving])
    assert rest.commitment == commit([pair for pair in data.items() if pair[0] not in leaving], "d").commitment


@SHORT
@given(samples, samples, names, names)
def test_equal_digests_mean_equal_samples(one, other, key, another):
    digests = Encoder("d").element(key, one).digest, Encoder("d").element(another, other).digest
    assert (digests[0] == digests[1]) == ((key, encoded(one)) == (another, encoded(other)))


@SHORT
@given(datasets, st.data())
def test_any_change_is_seen_or_refused(data, draw):
    base = commit(data.items(), "d").commitment
    key = draw.draw(st.sampled_from(sorted(data)))
    field = draw.draw(st.sampled_from(sorted(data[key])))
    kind = draw.draw(st.sampled_from(["value", "field name", "key", "missing field", "duplicate", "missing sample"]))
    changed = {name: dict(fields) for name, fields in data.items()}
    extra = []
    if kind == "value":
        value = draw.draw(values)
        if typed(value) == typed(changed[key][field]):
            return
        changed[key][field] = value
    elif kind == "field name":
        changed[key][field + "x"] = changed[key].pop(field)
        if encoded(changed[key]) == encoded(data[key]):
            return
    elif kind == "key":
        if key + "x" in changed:
            return
        changed[key + "x"] = changed.pop(key)
    elif kind == "missing field":
        changed[key].pop(field)
    elif kind == "duplicate":
        extra = [(key, changed[key])]
    else:
        changed.pop(key)
    try:
        found = commit([*changed.items(), *extra], "d").commitment
    except InvalidConfig:
        return
    assert kind != "duplicate"
    assert found.digest != base.digest
    assert found.root != base.root


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(256, (count, 1, 2, 2), dtype=torch.uint8, generator=generator)
    return Dataset("d", raw, torch.randint(3, (count,), generator=generator), ("a", "b", "c"))


@SHORT
@given(
    count=st.integers(1, 40),
    ranks=st.integers(1, 5),
    size=st.integers(1, 9),
    shuffle=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_batch_size_and_rank_count_gives_the_signed_digest(count, ranks, size, shuffle, seed):
    if ranks > count:
        return  # a sampler of torch cannot pad from fewer samples than ranks without repeating them more than once
    data = images(count, seed)
    whole = commit(data)
    verified = checked(data, whole)
    for rank in range(ranks):
        order = list(DistributedSampler(verified, ranks, rank, shuffle=shuffle, seed=seed))
        for start in range(0, len(order), size):
            verified.batch(torch.tensor(order[start : start + size]))
    epoch = verified.require_complete(padding=ranks - 1)
    assert epoch.multiset == whole.commitment.multiset
    assert epoch.excess == -count % ranks


@SHORT
@given(count=st.integers(1, 12), seed=st.integers(0, 9), drawn=st.lists(st.integers(0, 11), max_size=30))
def test_an_epoch_is_complete_only_if_each_sample_came_once(count, seed, drawn):
    data = images(count, seed)
    verified = checked(data, commit(data))
    drawn = [index for index in drawn if index < count]
    for index in drawn:
        verified.batch(torch.tensor([index]))
    if sorted(drawn) == list(range(count)):
        verified.require_complete()
        return
    standing = verified.standing()
    assert len(standing.missing) == count - len(set(drawn))
    assert standing.excess == len(drawn) - len(set(drawn))
    with pytest.raises(DigestMismatch):
        verified.require_complete()


KEY = generate_key()
COMMITMENT = commit([("a", {"x": 1}), ("b", {"y": "z"})], "d").commitment
BUNDLE = sign_commitment(COMMITMENT, KEY)  # once: signatures differ in length from one to the next


@SHORT
@given(st.data())
def test_no_damaged_statement_says_anything_else(draw):
    bundle = bytearray(BUNDLE)
    for _ in range(draw.draw(st.integers(1, 3))):
        place = draw.draw(st.integers(0, len(bundle) - 1))
        bundle[place] = draw.draw(st.integers(0, 255))
    try:
        found, _ = verify_commitment(bytes(bundle), KEY.public)
    except HoldfastError:
        return
    assert found == COMMITMENT  # only what is not signed has changed


@SHORT
@given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(0, 255))
def test_no_damaged_table_is_read_as_another(junk, place, value):
    table = commit([("a", {"x": 1}), ("b", {"y": "z"})], "d").table
    data = bytearray(write_table(table))
    data[place % len(data)] = value
    for bad in (bytes(data), junk, bytes(data) + junk):
        try:
            found = read_table(bad)
        except HoldfastError:
            continue
        assert write_table(found) == bad
