"""Products of byte planes are the reference's, bit for bit: every geometry, every number of planes, however shared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast._kernels.int8_windows import Windows
from holdfast.seeds import derive
from holdfast.shielding.product import Geometry, byte_planes, ring_product

CASES: dict[str, tuple[Windows, tuple[int, int]]] = {
    "3x3": (Windows(inputs=3, outputs=5, kernel=(3, 3), padding=(1, 1, 1, 1)), (7, 6)),
    "a stem": (Windows(inputs=3, outputs=9, kernel=(7, 7), stride=(2, 2), padding=(3, 3, 3, 3)), (13, 12)),
    "dilated": (
        Windows(inputs=16, outputs=24, kernel=(3, 2), stride=(2, 1), dilation=(2, 2), padding=(0, 3, 1, 2)),
        (9, 8),
    ),
    "dilated down": (Windows(inputs=5, outputs=4, kernel=(2, 3), dilation=(3, 1), padding=(2, 0, 0, 1)), (8, 7)),
    "strided 1x1": (Windows(inputs=20, outputs=17, stride=(2, 2)), (7, 5)),
    "1x1": (Windows(inputs=32, outputs=33), (3, 5)),
    "1x1 with margins": (Windows(inputs=2, outputs=3, padding=(1, 0, 0, 2)), (2, 2)),
    "three groups": (Windows(inputs=6, outputs=12, kernel=(3, 3), padding=(1, 1, 1, 1), groups=3), (5, 6)),
    "depthwise": (Windows(inputs=7, outputs=7, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), groups=7), (5, 6)),
    "linear": (Windows(inputs=300, outputs=70), (1, 1)),
    "linear of one": (Windows(inputs=1, outputs=1), (1, 1)),
}


def draw(name: str, windows: Windows, sides: tuple[int, int], planes: int, batch: int) -> tuple[Tensor, Tensor]:
    """Return full-range planes and codes."""
    generator = derive(3, name, str(planes), str(batch)).torch()
    shapes = (
        (planes, batch, windows.inputs, *sides),
        (windows.outputs, windows.inputs // windows.groups, *windows.kernel),
    )
    first, second = (torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8) for shape in shapes)
    return first, second


def reference(planes: Tensor, codes: Tensor, windows: Windows, above: int = 0) -> Tensor:
    """Multiply in float64, where every sum of this size is a whole number, and add planes up in int64."""
    total = torch.zeros((), dtype=torch.int64)
    for place, plane in enumerate(planes):
        image = F.pad(plane.double(), windows.padding)
        sizes = {"stride": windows.stride, "dilation": windows.dilation, "groups": windows.groups}
        total = total + (F.conv2d(image, codes.double(), **sizes).long() << (8 * place))
    return (total.to(torch.int32) << above) >> above


@pytest.fixture
def multiply(device: torch.device):
    """The twin, on tensors of the CPU."""
    from holdfast._kernels.int8_layers import TILES
    from holdfast._kernels.int8_layers import multiply as launch

    def run(planes: Tensor, codes: Tensor, windows: Windows, tile: str = "triton-32x64", **options: int) -> Tensor:
        images = windows.images(planes.to(device))
        return launch(images, windows.weights(codes).to(device), windows, tile=TILES[tile], **options).cpu()

    return run


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_reference(multiply, name: str, planes: int) -> None:
    windows, sides = CASES[name]
    message, codes = draw(name, windows, sides, planes, 2)
    assert torch.equal(multiply(message, codes, windows), reference(message, codes, windows))


@pytest.mark.parametrize("tile", ["triton-32x64", "triton-64x128"])
@pytest.mark.parametrize("name", ["3x3", "linear"])
def test_tiles_and_shared_sums_change_nothing(multiply, name: str, tile: str) -> None:
    windows, sides = CASES[name]
    message, codes = draw(name, windows, sides, 3, 3)
    for above, programs in ((0, 1), (8, 1), (24, 1), (0, 1000), (16, 1000)):
        wanted = reference(message, codes, windows, above)
        assert torch.equal(multiply(message, codes, windows, tile, above=above, programs=programs), wanted)


def test_a_sum_is_really_shared(device: torch.device) -> None:
    from holdfast._kernels.int8_layers import MOST_INNER, _part

    assert _part(72, 8, 64, 264) == 4  # 18 programs for each tile: more would have fewer than four steps
    assert _part(72, 88, 64, 264) == 24  # three, which is one for each place that is free
    assert _part(72, 300, 64, 264) == 72
    assert _part(3, 1, 64, 264) == 3
    assert _part(10_000, 300, 64, 264) * 64 <= MOST_INNER  # or an accumulator might leave int32


def test_the_extremes(multiply) -> None:
    windows = Windows(inputs=33, outputs=3, kernel=(2, 2), padding=(1, 1, 1, 1))
    for byte in (-128, 127):
        for code in (-128, 127):
            message = torch.full((4, 1, 33, 3, 3), byte, dtype=torch.int8)
            codes = torch.full((3, 33, 2, 2), code, dtype=torch.int8)
            assert torch.equal(multiply(message, codes, windows), reference(message, codes, windows))


def test_an_empty_batch_and_no_rows(multiply) -> None:
    windows, sides = CASES["3x3"]
    message, codes = draw("3x3", windows, sides, 2, 2)
    assert multiply(message[:, :0], codes, windows).shape == (0, 5, *sides)


@pytest.mark.parametrize("planes", [2, 4])
def test_it_is_what_the_trusted_world_expects(multiply, planes: int) -> None:
    """Residues of a blinded layer, through the planes that a session sends, modulo ``256**planes``."""
    windows, sides = CASES["a stem"]
    geometry = Geometry(
        kind="conv2d", out_channels=9, in_channels=3, kernel=(7, 7), stride=(2, 2), padding=(3, 3, 3, 3)
    )
    generator = derive(5, "residues").torch()
    x = torch.randint(-(2**31), 2**31, (2, 3, *sides), generator=generator, dtype=torch.int32)
    codes = draw("a stem", windows, sides, 1, 1)[1]
    got = multiply(byte_planes(x, planes), codes, windows, above=32 - 8 * planes)
    assert torch.equal(got, ring_product(x, codes, geometry, planes))


@pytest.mark.parametrize("name", ["3x3", "a stem", "dilated", "dilated down", "strided 1x1", "1x1", "linear"])
def test_unrolled_windows_meet_the_weights_in_their_order(name: str) -> None:
    windows, sides = CASES[name]
    message, codes = draw(name, windows, sides, 1, 2)
    images, weights = windows.images(message), windows.weights(codes).flatten(1)
    rows = windows.unrolled(images).double() @ weights.double().t()
    wanted = reference(message, codes, windows)
    assert torch.equal(rows.view(2, *wanted.shape[2:], windows.outputs).permute(0, 3, 1, 2).int(), wanted)


def test_images_are_moved_once_and_only_where_they_must() -> None:
    message = torch.zeros(2, 5, 300, 1, 1, dtype=torch.int8)
    assert Windows(inputs=300, outputs=2).images(message).data_ptr() == message.data_ptr()
    stem = Windows(inputs=3, outputs=9, kernel=(7, 7), padding=(3, 3, 3, 3))
    assert stem.images(torch.zeros(4, 2, 3, 10, 12, dtype=torch.int8)).shape == (4, 2, 16, 18, 4)
    assert (stem.columns, stem.run) == (1, 28)  # a line of the window is one stretch of bytes


ASKED = """
import re
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from tests.unit.kernels.compiled import KERNELS
steps = ("images", "weights", "sums", "plane", "image", "down", "right", "tap_down", "tap_right", "run", "group")
for function, signature, constants, warps in KERNELS:
    if function.__name__ == "multiply_planes" and "run" not in constants:
        even = {(k,): [["tt.divisibility", 16]] for k, name in enumerate(function.arg_names) if name in steps}
        source = ASTSource(function, signature | dict.fromkeys(constants, "constexpr"), constants, even)
        done = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
        text = done.asm["ptx"]
        print(constants["ROWS"], "wgmma.mma_async" in text and "s32.s8.s8" in text, len(re.findall("s32.s8.s8", text)),
              len(re.findall("ld.global.b8", text)), text.count(".local"))
"""


@pytest.mark.slow
def test_on_hopper_it_becomes_integer_tensor_cores_and_wide_reads(tmp_path: Path, repository: Path) -> None:
    """Where sizes are multiples of 16, as in all networks that matter: no byte is read alone, and nothing is spilt."""
    pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", ASKED], env=kept | {"TRITON_CACHE_DIR": str(tmp_path)}, cwd=repository,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == 8
    assert all(int(products) > 0 and alone == spilt == "0" for _, _, products, alone, spilt in rows)
    assert all(asynchronous == "True" for height, asynchronous, *_ in rows if height == "64")
