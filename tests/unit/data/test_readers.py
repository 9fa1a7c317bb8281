"""Every reader reads the real layout and refuses what is not."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.data import dataset
from holdfast.errors import UnreadableArtifact, UnsafeArtifact

GENERATOR = np.random.default_rng(0)


def write_binary(folder: Path, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    pixels = GENERATOR.integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = GENERATOR.integers(0, 10, count, dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test_batch.bin").write_bytes(np.concatenate((labels[:, None], pixels), axis=1).tobytes())
    return pixels, labels


def test_cifar_binary_and_pickle_layouts_agree(tmp_path: Path) -> None:
    pixels, labels = write_binary(tmp_path / "bin" / "cifar-10-batches-bin")
    inner = tmp_path / "py" / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    content = {b"data": pixels, b"labels": labels.tolist()}
    (inner / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    binary, pickled = (dataset(f"cifar10:{tmp_path / name}") for name in ("bin", "py"))
    assert binary.digest == pickled.digest
    assert torch.equal(binary.raw.view(5, -1), torch.from_numpy(pixels))
    assert binary.labels.tolist() == labels.tolist()


def test_cifar100_uses_fine_labels(tmp_path: Path) -> None:
    record = bytes([3, 77]) + bytes(3072)
    (tmp_path / "test.bin").write_bytes(record)
    assert dataset(f"cifar100:{tmp_path}").labels.tolist() == [77]


class Exploit:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("this must never run",))


def test_a_pickle_that_calls_anything_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Exploit()}, protocol=2))
    with pytest.raises(UnsafeArtifact, match="print"):
        dataset(f"cifar10:{tmp_path}")
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize("cut", [1, 3072])
def test_truncated_cifar_is_refused(tmp_path: Path, cut: int) -> None:
    write_binary(tmp_path)
    path = tmp_path / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UnreadableArtifact, match=r"test_batch\.bin"):
        dataset(f"cifar10:{tmp_path}")


def test_missing_cifar_names_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UnreadableArtifact) as caught:
        dataset(f"cifar10:{tmp_path}")
    assert "test_batch" in caught.value.hint


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_mnist_idx_plain_and_gzipped(tmp_path: Path) -> None:
    images, labels = GENERATOR.integers(0, 256, (4, 28, 28), dtype=np.uint8), np.array([0, 9, 3, 3], dtype=np.uint8)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    data = dataset(f"mnist:{tmp_path}")
    assert torch.equal(data.raw[:, 0], torch.from_numpy(images))
    assert data.labels.tolist() == [0, 9, 3, 3]


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"\1" + b[1:], lambda b: b + b"x", lambda b: b[:3]])
def test_damaged_idx_is_refused(tmp_path: Path, damage: object) -> None:
    whole = idx(np.zeros((2, 28, 28), dtype=np.uint8))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(damage(whole))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(2, dtype=np.uint8)))
    with pytest.raises(UnreadableArtifact):
        dataset(f"mnist:{tmp_path}")


def paint(path: Path, colour: tuple[int, int, int], size: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)


def test_image_folder_sorts_classes_and_files(tmp_path: Path) -> None:
    paint(tmp_path / "b" / "1.png", (0, 0, 255))
    paint(tmp_path / "a" / "2.png", (0, 255, 0))
    paint(tmp_path / "a" / "1.png", (255, 0, 0))
    data = dataset(f"folder:{tmp_path}")
    assert data.classes == ("a", "b")
    assert data.labels.tolist() == [0, 0, 1]
    assert data.raw[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_image_folder_names_the_odd_and_the_broken_file(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png", (1, 2, 3))
    paint(tmp_path / "a" / "2.png", (1, 2, 3), size=5)
    with pytest.raises(UnreadableArtifact, match=r"2\.png"):
        dataset(f"folder:{tmp_path}")
    assert dataset(f"folder:{tmp_path}", resize=4).raw.shape == (2, 3, 4, 4)
    (tmp_path / "a" / "2.png").write_bytes(b"not an image")
    with pytest.raises(UnreadableArtifact, match=r"2\.png"):
        dataset(f"folder:{tmp_path}")


def test_image_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableArtifact, match="no images"):
        dataset(f"folder:{tmp_path}")
    with pytest.raises(UnreadableArtifact, match="no folder"):
        dataset(f"folder:{tmp_path / 'missing'}")


def test_real_mnist(shared_data: Path) -> None:
    data = dataset(f"mnist:{shared_data / 'mnist'}")
    assert len(data) == 10_000
    assert data.labels[:5].tolist() == [7, 2, 1, 0, 4]
