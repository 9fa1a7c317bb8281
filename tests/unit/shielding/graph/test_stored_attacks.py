"""Small unsigned programs that cost without end, ask for huge inputs, take names, or forge lines of what is shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import holdfast
from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.shielding.graph.arguments import read
from holdfast.shielding.graph.budget import FLOOR, Budget
from tests.unit.shielding.graph.test_stored import Program, Tensors, forge, kept

Change = Callable[[Program, Tensors], None]


def ref(name: str) -> dict[str, str]:
    return {"ref": name}


def add(program: Program, name: str, target: str, *args: Any) -> None:
    program["steps"].append(
        {
            "name": name,
            "target": target,
            "path": "",
            "operation": "x",
            "args": list(args),
            "keywords": {},
            "elements": 1,
            "moves": True,
        }
    )


def doubling(program: Program, _: Tensors) -> None:
    before = program["output"]
    for number in range(40):
        add(program, f"z{number}", "aten.cat.default", [ref(before), ref(before)], 1)
        before = f"z{number}"


def keeping(program: Program, _: Tensors) -> None:
    names = [f"f{number}" for number in range(40)]
    for name in names:
        add(program, name, "aten.full.default", [1, 2**18], 1)
    add(program, "all", "aten.cat.default", [ref(name) for name in names for _ in range(20)])
    add(program, "again", "aten.expand.default", ref("all"), [2**40, 2**18])


def working(program: Program, _: Tensors) -> None:
    add(program, "z", "aten.full.default", [1], 1)
    add(program, "wide", "aten.expand.default", ref("z"), [2**27])
    for number in range(200):
        add(program, f"m{number}", "aten.alias.default", ref(f"m{number - 1}" if number else "wide"))


def holding(program: Program, _: Tensors) -> None:
    add(program, "z", "aten.full.default", [1], 1)
    for number in range(9):
        add(program, f"w{number}", "aten.expand.default", ref("z"), [2**26])
    add(program, "last", "aten.stack.default", [ref(f"w{number}") for number in range(9)])


def splitting(program: Program, _: Tensors) -> None:
    add(program, "z", "aten.full.default", [1], 1)
    add(program, "wide", "aten.expand.default", ref("z"), [2**26])
    add(program, "parts", "aten.unbind.int", ref("wide"))


def pooling(program: Program, _: Tensors) -> None:
    add(program, "image", "aten.full.default", [1, 1, 2**20, 1], 1)
    add(program, "pooled", "exact.adaptive_average_pool", ref("image"), [2**40, 1])


def choosing(program: Program, _: Tensors) -> None:
    add(program, "mask", "aten.ge.Scalar", ref(program["output"]), 0)
    add(program, "chosen", "aten.index.Tensor", ref(program["output"]), [ref("mask")])


def squaring(program: Program, _: Tensors) -> None:
    add(program, "s0", "python.add", 7, 7)
    for number in range(1, 34):
        add(program, f"s{number}", "python.mul", ref(f"s{number - 1}"), ref(f"s{number - 1}"))


def repeating(program: Program, _: Tensors) -> None:
    add(program, "text", "python.mul", "A", 2**40)


def lengthening(program: Program, _: Tensors) -> None:
    add(program, "list", "python.mul", [1, 2], 2**40)


def writing(program: Program, _: Tensors) -> None:
    program["steps"][0]["keywords"]["text"] = "A" * 10_000


def enlarging(program: Program, _: Tensors) -> None:
    program["input_shape"] = [1, 2**20, 2**18]


def renamed(path: str) -> Change:
    def change(program: Program, tensors: Tensors) -> None:
        program["modules"][path] = program["modules"].pop("q")
        next(step for step in program["steps"] if step["path"] == "q")["path"] = path
        for name in [name for name in tensors if name.startswith("q.")]:
            tensors[path + name[1:]] = tensors.pop(name)
            program["tensors"][path + name[1:]] = program["tensors"].pop(name)

    return change


def saying(key: str, text: str) -> Change:
    def change(program: Program, _: Tensors) -> None:
        program["steps"][0][key] = text

    return change


def crowding(program: Program, _: Tensors) -> None:
    """One element for one sample, and 3 ** 32 for three."""
    add(program, "n0", "aten.sym_size.int", ref(program["input"]), 0)
    for number in range(1, 6):
        add(program, f"n{number}", "python.mul", ref(f"n{number - 1}"), ref(f"n{number - 1}"))
    add(program, "crowd", "aten.full.default", [ref("n5")], 1)


def hoarding(program: Program, _: Tensors) -> None:
    """Many values that are small for one sample, and all kept."""
    add(program, "n0", "aten.sym_size.int", ref(program["input"]), 0)
    for number in range(1, 5):
        add(program, f"n{number}", "python.mul", ref(f"n{number - 1}"), ref(f"n{number - 1}"))
    names = [f"h{number}" for number in range(12)]
    for name in names:
        add(program, name, "aten.full.default", [ref("n4")], 1)
    add(program, "all", "aten.cat.default", [ref(name) for name in names])


def dividing(program: Program, _: Tensors) -> None:
    """A quotient over which the processor ends the process."""
    add(program, "least", "aten.full.default", [1], -(2**53))
    add(program, "shift", "aten.bitwise_left_shift.Tensor_Scalar", ref("least"), 10)
    add(program, "one", "aten.full.default", [1], -1)
    add(program, "quotient", "aten.floor_divide.default", ref("shift"), ref("one"))


def naming(number: int, key: str) -> Change:
    """Return what names a type by its number: torch takes it, and reads what lies there in memory."""

    def change(program: Program, _: Tensors) -> None:
        add(program, "made", "aten.zeros.default", [3])
        program["steps"][-1]["keywords"] = {key: number}

    return change


def naming_later(program: Program, _: Tensors) -> None:
    add(program, "size", "aten.sym_size.int", ref(program["input"]), 0)
    add(program, "made", "aten._to_copy.default", ref(program["input"]))
    program["steps"][-1]["keywords"] = {"dtype": ref("size")}


def converting(program: Program, _: Tensors) -> None:
    add(program, "made", "aten.to.prim_Device", ref(program["input"]), None, -1)


def remaining(program: Program, _: Tensors) -> None:
    add(program, "rest", "aten.remainder.default", -1, 0)  # which ends the process


def telling(program: Program, _: Tensors) -> None:
    """Read out of a whole batch whether a sample holds something: a truth value has no colours."""
    add(program, "most", "aten.amax.default", ref(program["input"]), [0, 1])
    add(program, "seen", "aten.eq.Tensor_list", [ref("most")], [ref("most")])


def kinds(program: Program, _: Tensors) -> None:
    program["modules"]["q"]["kind"] = ["integer"]


def looking_up(program: Program, _: Tensors) -> None:
    add(program, "words", "aten.embedding.default", ref(program["output"]), ref(program["output"]))  # torch asserts


ATTACKS: dict[str, tuple[Change, str]] = {
    "kind that is a list": (kinds, "node 'q' is described by other fields"),
    "table of three dimensions": (looking_up, "step 'words' does not compute"),
    "type by number": (naming(-1, "dtype"), "step 'made': dtype is -1"),
    "type by a great number": (naming(2**31, "dtype"), "step 'made': dtype is 2147483648"),
    "layout by number": (naming(77, "layout"), "step 'made': layout is 77"),
    "type by a size": (naming_later, r"step 'made': dtype is Ref\(name='size'\)"),
    "type of TorchScript": (converting, r"no operation 'aten\.to\.prim_Device'"),
    "remainder of numbers": (remaining, r"no operation 'aten\.remainder\.default'"),
    "truth of tensors": (telling, r"no operation 'aten\.eq\.Tensor_list'"),
    "doubling": (doubling, r"step 'z2\d' does not compute: it makes \d+ elements"),
    "beyond all memory": (keeping, "step 'all' does not compute: it makes|step 'again'"),
    "work without end": (working, r"step 'm\d+' does not compute: with it, the steps cost"),
    "much kept": (holding, r"step 'w\d' does not compute: with it, \d+ elements are kept|step 'last'.*it makes"),
    "many parts": (splitting, "step 'parts' does not compute: with it"),
    "many windows": (pooling, "step 'pooled' does not compute"),
    "size from values": (choosing, "step 'chosen' does not compute: the size"),
    "squares": (squaring, r"step 's\d' does not compute: the result of python\.mul does not fit 64 bits"),
    "text times": (repeating, r"step 'text' does not compute: python\.mul takes no str"),
    "list times": (lengthening, r"step 'list' does not compute: python\.mul takes no list"),
    "long text": (writing, "an argument is no printable text"),
    "input": (enlarging, "the input 'x' has 274877906944 elements"),
    "method": (renamed("forward"), "'forward': the name is taken"),
    "field": (renamed("steps"), "'steps': the name is taken"),
    "field set late": (renamed("_spent"), "'_spent': the name is taken"),
    "weights of a layer": (renamed("k.codes"), r"'k\.codes': the name is taken"),
    "line in a path": (renamed("q\nnode trusted"), "the path of a node is no printable text"),
    "line in an operation": (
        saying("operation", "\x1b[31mHACK\nnode trusted"),
        "operation of step '.*' is no printable",
    ),
    "turned operation": (saying("operation", "\u202etrusted"), "operation of step '.*' is no printable"),
    "long operation": (saying("operation", "a" * 513), "operation of step '.*' is no printable"),
    "much for three samples": (crowding, r"several samples do not compute together: it makes 1853020188851841"),
    "much kept for three": (hoarding, r"several samples do not compute together: with it, \d+ elements are kept"),
    "least by minus one": (dividing, "step 'quotient' does not compute: the least whole number divided by -1"),
    "line in a target": (saying("target", "aten\n"), "target of step '.*' is no printable"),
}
SLOW = {"much kept for three": pytest.mark.slow}


@pytest.mark.parametrize("what", [pytest.param(it, marks=SLOW.get(it, ())) for it in ATTACKS])
def test_a_small_program_is_refused_by_name_and_soon(what: str, tmp_path: Path) -> None:
    change, message = ATTACKS[what]
    folder = kept("causal", tmp_path)
    forge(folder, change)
    assert (folder / "program.json").stat().st_size < 100_000
    before = time.process_time()
    with pytest.raises(UnreadableArtifact, match=message) as caught:
        holdfast.load(folder)
    assert time.process_time() - before < 20
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_plain_numbers_beyond_53_bits_are_refused() -> None:
    assert read(2**53) == 2**53
    with pytest.raises(UnreadableArtifact, match="an argument is"):
        read(2**53 + 1)


def test_nothing_is_computed_that_is_too_large() -> None:
    with Budget(0), pytest.raises(InvalidConfig, match=f"makes {2**40} elements, where .* may make {FLOOR}"):
        torch.zeros(2**40)


def test_sorting_costs_more_than_moving() -> None:
    wide, part = torch.zeros(1).expand(FLOOR), torch.zeros(1).expand(2**24)
    with Budget(0):
        for _ in range(31):
            wide.view(-1)
        part.view(-1)
        with pytest.raises(InvalidConfig, match="with it, the steps cost more than 64 times"):
            part.sort()


def test_a_list_of_sizes_may_be_longer_than_what_it_splits() -> None:
    with Budget(0), pytest.raises(InvalidConfig, match="the steps cost more"):
        torch.zeros(1).split_with_sizes([0] * 600_000 + [1])


def test_a_model_with_more_weights_may_make_more() -> None:
    one = torch.zeros(1)
    with Budget(1_000):
        assert one.expand(FLOOR + 64_000).numel() == FLOOR + 64_000
        with pytest.raises(InvalidConfig, match="elements"):
            one.expand(FLOOR + 64_001)
