"""Requests as bytes: what fits is read to the bit, everything else gets one sentence."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from holdfast.errors import InvalidConfig
from holdfast.shielding.gateway import Refused, Signature
from holdfast.shielding.gateway.signature import JSON, SAFETENSORS, write

PAIRS = Signature(shape=(2,), most=3)
TOKENS = Signature(shape=(2,), vocabulary=5)


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2),
                min_size=1, max_size=3))  # fmt: skip
def test_every_float32_comes_through_json_unchanged_in_both_directions(rows: list[list[float]]) -> None:
    wanted = torch.tensor(rows, dtype=torch.float32)
    inputs = PAIRS.read(json.dumps({"inputs": rows}).encode())
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs.view(torch.int32), wanted.view(torch.int32))
    back = torch.tensor(json.loads(write(inputs))["outputs"], dtype=torch.float32)
    assert torch.equal(back.view(torch.int32), wanted.view(torch.int32))


def test_safetensors_both_ways() -> None:
    inputs = torch.rand(3, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(PAIRS.read(save({"inputs": inputs}), SAFETENSORS), inputs)
    assert torch.equal(load(write(inputs * torch.inf, SAFETENSORS))["outputs"], inputs * torch.inf)
    with pytest.raises(Refused, match="not finite") as caught:
        write(inputs * torch.inf, JSON)
    assert caught.value.code.http == 500


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not strict JSON"),
        (b"\xff\xfe{", "not strict JSON"),
        (b'{"inputs": [[1, 2]]', "not strict JSON"),
        (b'{"inputs": [[1, NaN]]}', "NaN is no number"),
        (b'{"inputs": [[1, -Infinity]]}', "-Infinity is no number"),
        (b'{"inputs": [[1, 2]], "inputs": [[1, 2]]}', "a key stands twice"),
        (b'{"inputs": ' + b"[" * 100_000, "more numbers or lists than"),
        (b'{"inputs": [' + b"[]," * 5_000_000 + b"[]]}", "more numbers or lists than"),
        (b'{"inputs": [' + b"0," * 5_000_000 + b"0]}", "more numbers or lists than"),
        (b'{"inputs": ' + b"[" * 60 + b"]" * 60 + b"}", "nested too deeply"),
        (b'{"inputs": [[1, 1e39]]}', "not finite in float32"),
        (b'{"inputs": [[1, 1e999]]}', "not finite in float32"),
        (b"[[1, 2]]", "the one key inputs"),
        (b'{"inputs": [[1, 2]], "more": 1}', "the one key inputs"),
        (b'{"outputs": [[1, 2]]}', "the one key inputs"),
        (b'{"inputs": 3}', "not lists of numbers"),
        (b'{"inputs": "12"}', "not lists of numbers"),
        (b'{"inputs": [["1", "2"]]}', "not lists of numbers"),
        (b'{"inputs": [[1, true]]}', "not lists of numbers"),
        (b'{"inputs": [[1, null]]}', "not lists of numbers"),
        (b'{"inputs": [[1, {}]]}', "not lists of numbers"),
        (b'{"inputs": [[1, 2], [3]]}', "different lengths"),
        (b'{"inputs": [[1, 36893488147419103232]]}', "not lists of numbers"),
        (b'{"inputs": []}', r"inputs have shape \[0\]"),
        (b'{"inputs": [[]]}', r"inputs have shape \[1, 0\]"),
        (b'{"inputs": [1, 2]}', r"inputs have shape \[2\]"),
        (b'{"inputs": [[1, 2], [1, 2], [1, 2], [1, 2]]}', r"inputs have shape \[4, 2\]"),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(raw: bytes, message: str) -> None:
    with pytest.raises(Refused, match=message) as caught:
        PAIRS.read(raw)
    assert caught.value.outcome == "invalid"
    assert caught.value.code.http == 400


def test_tokens_are_whole_and_known() -> None:
    read = TOKENS.read(b'{"inputs": [[0, 4]]}')
    assert (read.dtype, read.tolist()) == (torch.int64, [[0, 4]])
    for raw, message in (
        (b'{"inputs": [[0, 5]]}', "outside 0 .. 4"),
        (b'{"inputs": [[-1, 0]]}', "outside"),
        (b'{"inputs": [[0, 18446744073709551615]]}', "whole numbers|outside"),
        (b'{"inputs": [[0, 1.0]]}', "whole"),
    ):
        with pytest.raises(Refused, match=message):
            TOKENS.read(raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not in safetensors"),
        (b"\xff" * 64, "not in safetensors"),
        (save({"inputs": torch.zeros(1, 2), "more": torch.zeros(1)}), "the one tensor"),
        (save({"other": torch.zeros(1, 2)}), "the one tensor"),
        (save({"inputs": torch.zeros(1, 2, dtype=torch.float64)}), "float64"),
        (save({"inputs": torch.zeros(1, 3)}), "shape"),
        (save({"inputs": torch.full((1, 2), torch.nan)}), "not finite"),
        (save({"inputs": torch.empty(0, 2**62)}), "shape"),
        (save({"inputs": torch.zeros(70 * [1])}), "shape"),
    ],
)
def test_malformed_safetensors_are_told_what_is_wrong(raw: bytes, message: str) -> None:
    with pytest.raises(Refused, match=message):
        PAIRS.read(raw, SAFETENSORS)


WORDS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["inputs", "a"]), inner)),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=200), WORDS.map(lambda value: json.dumps(value).encode()),
                 WORDS.map(lambda value: json.dumps({"inputs": value}).encode())),
       st.sampled_from([JSON, SAFETENSORS]), st.sampled_from([PAIRS, TOKENS]))  # fmt: skip
def test_whatever_arrives_is_read_or_refused(raw: bytes, kind: str, signature: Signature) -> None:
    with suppress(Refused):
        inputs = signature.read(raw, kind)
        assert inputs.shape[1:] == (2,)
        assert inputs.dtype == signature.dtype
        assert bool(inputs.isfinite().all())


def test_a_signature_that_nothing_fits_is_refused() -> None:
    for broken in ({"shape": ()}, {"shape": (0,)}, {"shape": (1,), "most": 0}, {"shape": (1,), "vocabulary": 0}):
        with pytest.raises(InvalidConfig):
            Signature(**broken)  # type: ignore[arg-type]


def test_the_longest_request_holds_what_the_model_takes_however_it_is_written() -> None:
    signature = Signature(shape=(3, 2), most=4)
    inputs = torch.full((4, 3, 2), -1.2345678806304932e-38)
    assert torch.equal(signature.read(json.dumps({"inputs": inputs.tolist()}, indent=1).encode()), inputs)
    for raw in (json.dumps({"inputs": inputs.tolist()}).encode(), save({"inputs": inputs})):
        assert len(raw) <= signature.longest < 8192
    assert (signature.numbers, signature.lists) == (24, 1 + 4 + 12)
