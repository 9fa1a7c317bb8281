"""Policies are total: any text is a policy or a clear refusal, and any bytes are a file that can be judged."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.policy import Policy, State, read_policy
from holdfast.policy.contents import formats_of
from holdfast.policy.read import REPEATED, SINGLE
from tests.judged import BUILDER, scene

TABLES = sorted([*SINGLE, *REPEATED])
KEYS = sorted({name for kind in (*SINGLE.values(), *REPEATED.values()) for name in kind.__dataclass_fields__})
PLAIN = ['"a.pub"', '"90d"', '["a.pub"]', '["pickle"]', "[]", "1", "0", "-1", "true", "1.5", "{}", '{"a" = 2}']
VALUES = st.one_of(
    st.sampled_from(PLAIN),
    st.text(max_size=8).map(lambda text: '"' + "".join(c for c in text if c.isalnum()) + '"'),
)


def toml(tables: list[tuple[str, bool, dict[str, str]]]) -> str:
    lines = []
    for name, several, items in tables:
        lines.append(f"[[{name}]]" if several else f"[{name}]")
        lines += [f"{key} = {value}" for key, value in items.items()]
    return "\n".join(lines)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*TABLES, "modle", "x"]),
            st.booleans(),
            st.dictionaries(st.sampled_from([*KEYS, "trsut"]), VALUES, max_size=4),
        ),
        max_size=4,
    )
)
def test_any_text_is_a_policy_or_a_clear_refusal(tables: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.toml"
        path.write_text(toml(tables))
        try:
            found = read_policy(path)
        except InvalidConfig:
            return
        assert isinstance(found, Policy)
        assert set(found.tables) == {name for name, _, _ in tables}
        assert all(getattr(found, name) for name in found.tables)  # what is written is asked


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 255)), min_size=1, max_size=2), st.booleans())
def test_damaged_evidence_gets_a_verdict_and_never_another_meaning(flips: list[tuple[int, int]], cut: bool) -> None:
    rules = f'[[model]]\ntrust = ["author.pub"]\n[provenance]\ntrust = ["ci.pub"]\nbuilders = {{"{BUILDER}" = 1}}\n'
    with tempfile.TemporaryDirectory() as folder:
        at = scene(Path(folder))
        path = at.provenance("ci")
        met = at.verdict(rules, "[provenance]")
        whole = bytearray(path.read_bytes())
        for place, mask in flips:
            whole[place % len(whole)] ^= mask
        path.write_bytes(bytes(whole[: len(whole) - 1] if cut else whole))
        found = at.verdict(rules, "[provenance]")
    assert found == met or found[0] is State.NOT_MET
    assert met[0] is State.MET


def archives() -> list[bytes]:
    packed, taped = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\\x80\\x02.")
        archive.writestr("config.json", b"{}" * 50)
    with tarfile.open(fileobj=taped, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("empty"))
    return [packed.getvalue(), taped.getvalue()]


ARCHIVES = archives()


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([0, 1]), st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), max_size=3), st.data())
def test_a_damaged_archive_is_judged_or_refused(which: int, flips: list[tuple[int, int]], data: st.DataObject) -> None:
    whole = bytearray(ARCHIVES[which])
    for place, mask in flips:
        whole[place % len(whole)] ^= mask
    whole = whole[: data.draw(st.integers(len(whole) - 40, len(whole)))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part"
        path.write_bytes(bytes(whole))
        try:
            found = formats_of(path, "part")
        except UnreadableArtifact:
            return
        assert set(found) <= {"pickle", "torchscript", "keras-lambda", "code"}
