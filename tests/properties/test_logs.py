"""Whatever stands in a file, reading it gives a log or a refusal, and damage never makes exposure."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import HoldfastError
from holdfast.soak.log_lines import Line, iteration_line, parse_line, sdc_line
from holdfast.soak.logs import read_log
from holdfast.soak.nvbitfi import read_results

HEADS = ["#SDC Ite:", "#IT ", "#INF Ite:", "#END", "#HEADER ", "#BEGIN ", "#SERVER_DUE:", "#ABORT"]
FIELDS = [" KerTime:", " AccTime:", " KerErr:", " AccErr:", "#ERR output_t nan:1 inf:0"]
STAMPS = ["2023-12-03 14:05:09.125 ", "2023-99-99 99:99:99.999 "]
TIMES = ["Y:2023 M:13 D:45 Time:99:61:61", "TIME:2023-02-30-01-01-01", *STAMPS]
OTHERS = ["1", "1e999", "nan", "-3", "0.5", "\u0663", "x", ";", ":", "\x00", "\r"]
PIECES = st.sampled_from([*HEADS, *FIELDS, *TIMES, *OTHERS])
LINES = st.lists(PIECES, max_size=10).map("".join).map(str.encode) | st.binary(max_size=40)


@given(LINES)
def test_any_line_is_read_or_named(raw: bytes):
    found = parse_line(raw.replace(b"\n", b""), 7)
    assert found is None or found.number == 7


@settings(max_examples=60, deadline=None)
@given(st.lists(LINES, max_size=20))
def test_any_file_is_a_log_or_refused(lines: list[bytes]):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.log"
        path.write_bytes(b"\n".join(lines))
        for read in (read_log, read_results):
            with suppress(HoldfastError):  # and nothing else
                assert read(path)


@settings(max_examples=60, deadline=None)
@given(st.lists(LINES, max_size=8), st.integers(1, 30))
def test_lines_that_say_nothing_do_not_change_what_a_log_tells(noise: list[bytes], count: int):
    kept = [line for line in noise if not isinstance(parse_line(line.replace(b"\n", b"")), Line)]
    body = [iteration_line(10 * k, 0.1, 1.0 + k).encode() for k in range(count)]
    body.append(sdc_line(10 * count, 0.1, 1.0 + count, 1, 1).encode())
    with tempfile.TemporaryDirectory() as folder:
        clean, noisy = Path(folder) / "a.log", Path(folder) / "b.log"
        clean.write_bytes(b"\n".join([b"#HEADER x", *body]))
        spread = [piece for k, line in enumerate(body) for piece in ([kept[k % len(kept)]] if kept else []) + [line]]
        noisy.write_bytes(b"\n".join([b"#HEADER x", *spread]))
        one, other = read_log(clean), read_log(noisy)
    assert (one.seconds, one.unseen, len(one.corruptions)) == (other.seconds, other.unseen, len(other.corruptions))


@given(st.integers(0, 10**9), st.floats(0, 1e6), st.floats(0, 1e9), st.integers(1, 10**6), st.integers(1, 10**9))
def test_what_is_written_reads_back(iteration: int, kernel: float, total: float, errors: int, everything: int):
    line = parse_line(sdc_line(iteration, kernel, total, errors, everything).encode())
    assert isinstance(line, Line)
    assert (line.iteration, line.fields["KerErr"]) == (iteration, str(errors))
    assert abs(line.total_seconds - total) <= 1e-7 * max(1.0, total)
