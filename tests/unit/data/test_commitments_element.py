"""One sample as bytes: what is bound, and that nothing has two readings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.data.commitments.element import Encoder, field_tags, typed_fields
from holdfast.data.commitments.values import Value, typed
from holdfast.errors import InvalidConfig

from . import reference_commitment as reference

IMAGE = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
SAMPLE = {"image": IMAGE, "label": 3}


def digest(fields, *, dataset="d", key="k"):
    return Encoder(dataset).element(key, fields).digest


def test_the_bytes_are_those_of_the_specification():
    fields = {"label": ("int64", (), (3).to_bytes(8, "little")), "image": ("uint8", (3, 2, 2), IMAGE.tobytes())}
    found = Encoder("d").element("k", SAMPLE)
    assert found.digest == reference.element("d", "k", fields)
    assert found.size == 12 + 8


CHANGES = {
    "label": {"image": IMAGE, "label": 4},
    "label as float": {"image": IMAGE, "label": 3.0},
    "label as int32": {"image": IMAGE, "label": np.int32(3)},
    "label as bool": {"image": IMAGE, "label": True},
    "label as text": {"image": IMAGE, "label": "3"},
    "label in a vector": {"image": IMAGE, "label": np.array([3])},
    "no label": {"image": IMAGE},
    "null label": {"image": IMAGE, "label": None},
    "more metadata": {"image": IMAGE, "label": 3, "source": "x"},
    "reshaped": {"image": IMAGE.reshape(3, 4), "label": 3},
    "transposed": {"image": IMAGE.transpose(0, 2, 1), "label": 3},
    "retyped": {"image": IMAGE.view(np.int8), "label": 3},
    "renamed field": {"picture": IMAGE, "label": 3},
    "one pixel": {"image": IMAGE ^ (np.arange(12).reshape(3, 2, 2) == 11).astype(np.uint8), "label": 3},
    "swapped names": {"label": IMAGE, "image": 3},
    "truncated": {"image": IMAGE[:2], "label": 3},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_has_meaning_changes_the_digest(change):
    assert digest(CHANGES[change]) != digest(SAMPLE)


def test_dataset_and_key_are_bound():
    assert len({digest(SAMPLE), digest(SAMPLE, key="l"), digest(SAMPLE, dataset="e")}) == 3
    assert digest(SAMPLE, dataset="dk", key="x") != digest(SAMPLE, dataset="d", key="kx")


def test_order_of_fields_and_strides_have_no_meaning():
    turned = np.asfortranarray(IMAGE)
    assert digest({"label": 3, "image": turned}) == digest(SAMPLE)
    view = torch.from_numpy(IMAGE).permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not view.is_contiguous()
    assert digest({"image": view, "label": torch.tensor(3)}) == digest(SAMPLE)


def test_a_non_contiguous_view_hashes_what_it_shows():
    wide = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    assert digest({"image": wide[:, :, ::2]}) == digest({"image": wide[:, :, ::2].copy()})
    assert digest({"image": wide[:, :, ::2]}) != digest({"image": wide[:, :, :2]})


def test_byte_order_is_of_the_encoding_not_of_the_array():
    assert typed(np.array([1, 2], ">i4")) == typed(np.array([1, 2], "<i4")) == Value("int32", (2,), b"\1\0\0\0\2\0\0\0")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_tensors_keep_their_dtype(dtype):
    value = typed(torch.tensor([1.0, 0.0]).to(dtype))
    assert value.dtype == str(dtype).removeprefix("torch.")
    assert len(value.data) == 2 * dtype.itemsize
    assert value.shape == (2,)


def test_zero_and_minus_zero_differ_even_inside_lists():
    assert typed(0.0) != typed(-0.0)
    assert typed([0.0]) != typed([-0.0])
    assert typed([1]) != typed([1.0])
    assert typed({"a": 1}) != typed({"b": 1})
    assert typed([[1], [2]]) != typed([[1, 2]])
    assert typed({"a": 1, "b": 2}) == typed({"b": 2, "a": 1})


def test_images_bind_their_mode():
    image = Image.fromarray(IMAGE.reshape(2, 2, 3))
    assert typed(image) == Value("image/RGB/uint8", (2, 2, 3), IMAGE.tobytes())
    with pytest.raises(InvalidConfig, match="mode 'P'"):
        typed(image.convert("P"))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (2**63, "64 bits"),
        (object(), "a object has no encoding"),
        (np.array(["a"]), "an array of <U1"),
        (np.array([object()]), "an array of object"),
        (np.array(["2020-01-01"], "datetime64[D]"), "datetime64"),
        ({1: 2}, "text keys"),
        ("\udcff", "no UTF-8"),
        (torch.zeros(2).to_sparse(), "sparse"),
        ({3}, "a set has no"),
    ],
)
def test_what_has_no_encoding_is_refused_with_its_name(value, sentence):
    with pytest.raises(InvalidConfig, match=sentence) as caught:
        Encoder("d").element("seven", {"thing": value})
    assert "field 'thing' of the sample 'seven'" in str(caught.value)


def test_deep_nesting_is_refused():
    value = 1
    for _ in range(17):
        value = [value]
    with pytest.raises(InvalidConfig, match="deeper"):
        typed(value)


@pytest.mark.parametrize("key", ["", "a\nb", "a\0", "x" * 5000, "\udc80"])
def test_keys_are_text_without_control_characters(key):
    with pytest.raises(InvalidConfig, match="key"):
        digest(SAMPLE, key=key)


def test_a_sample_has_fields():
    with pytest.raises(InvalidConfig, match="no fields"):
        typed_fields("k", {})


def test_tags_tell_fields_apart():
    before, after = field_tags("k", SAMPLE), field_tags("k", CHANGES["label"])
    assert before["image"] == after["image"]
    assert before["label"] != after["label"]
    assert {len(tag) for tag in before.values()} == {8}
