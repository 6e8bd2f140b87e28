"""The bytes of a journal: they are what the format says, and no damage goes unnoticed."""

from __future__ import annotations

import hashlib
import json
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zodist.errors import JournalError
from zodist.journal.format import difference, header_line, line_of, parse, run_id
from zodist.step import Entry

HEADER = {"config": {"rule": {"lr": 0.0001}, "task": {"name": "sst2"}}, "model": "abc", "method": "mezo"}
ROUNDS = [
    Entry(0, 0, 1e-4, np.array([[0.5, 2.25]], np.float32)),
    Entry(0, 1, 1e-4, np.array([[0.25, 2.0], [np.nan, np.inf]], np.float32)),
    Entry(1, 0, 3.3e-5, np.array([[-0.125, 1e-30]], np.float32)),
]
DATA = header_line(HEADER) + b"".join(line_of(entry) for entry in ROUNDS)


@settings(max_examples=50)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=5),
        elements=hnp.from_dtype(np.dtype(np.float32)),
    ),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_values_and_learning_rate_survive(values, lr):
    entry = Entry(0, 0, lr, values)
    found = parse(header_line(HEADER) + line_of(entry), "x").entries[0]
    assert found.values.tobytes() == values.tobytes() and found.values.shape == values.shape
    assert np.float64(found.lr).tobytes() == np.float64(lr).tobytes()


def test_the_bytes_of_a_journal_are_these():
    """The format is a promise to other readers: this one is written from the description alone."""
    content = json.dumps({"format": "zodist-journal/1", **HEADER}, sort_keys=True, separators=(",", ":"))
    run = hashlib.sha256(content.encode()).hexdigest()[:16]
    bodies = [
        f'{{"format":"zodist-journal/1","run":"{run}","config":{{"rule":{{"lr":0.0001}},"task":{{"name":"sst2"}}}},'
        '"method":"mezo","model":"abc"',
        '{"t":0,"r":0,"lr":0.0001,"k":2,"v":"AAAAPwAAEEA="',
        '{"t":0,"r":1,"lr":0.0001,"k":2,"v":"AACAPgAAAEAAAMB/AACAfw=="',
        '{"t":1,"r":0,"lr":3.3e-05,"k":2,"v":"AAAAvmBCog0="',
    ]
    expected = "".join(f'{body},"crc":"{zlib.crc32(body.encode()):08x}"}}\n' for body in bodies)
    assert DATA.decode() == expected
    assert all(json.loads(line) for line in expected.splitlines())


def test_a_run_is_named_by_its_header_and_not_by_the_order_of_keys():
    turned = dict(reversed(list(HEADER.items())))
    assert run_id(turned) == run_id(HEADER) != run_id({**HEADER, "model": "abd"})
    assert header_line(turned) == header_line(HEADER)
    assert run_id({"a": {2: (1, 2), 10: 0}}) == run_id({"a": {"10": 0, "2": [1, 2]}})


def test_every_flipped_bit_is_found():
    data = bytearray(DATA)
    for at in range(len(data)):
        line = data[:at].count(b"\n") + 1
        for bit in range(8):
            data[at] ^= 1 << bit
            with pytest.raises(JournalError) as error:
                parse(bytes(data), "j")
            assert f"j:{line}:" in str(error.value), (at, bit)
            data[at] ^= 1 << bit


def test_every_flipped_bit_before_a_torn_tail_is_found():
    data = bytearray(DATA)
    good = len(data)
    data += line_of(Entry(2, 0, 1e-4, ROUNDS[0].values))[:40]
    assert parse(bytes(data), "j").torn
    for at in range(good):
        for bit in range(8):
            data[at] ^= 1 << bit
            with pytest.raises(JournalError):
                parse(bytes(data), "j")
            data[at] ^= 1 << bit


def test_a_cut_at_any_byte_leaves_the_complete_rounds():
    data = DATA
    ends = [at + 1 for at, byte in enumerate(data) if byte == 0x0A]
    for size in range(len(data)):
        complete = sum(end <= size for end in ends)
        for zeros in (0, 5):  # a file system may leave zeros where it had not yet written
            torn = data[:size] + bytes(zeros)
            whole_line = size + 1 in ends and zeros
            if complete == 0 or whole_line:
                with pytest.raises(JournalError):
                    parse(torn, "j")
                continue
            contents = parse(torn, "j")
            assert contents.entries == ROUNDS[: complete - 1]
            assert contents.end == ends[complete - 1]
            assert contents.torn == (size + zeros > contents.end)


@pytest.mark.parametrize(
    "tail",
    [b"x", b'{"t":2,"r":0,"lr":0.1]', b"{}", b"\xff", b'{"t":2,"r":0,"lr":0.1,"k":2,\0x'],
)
def test_a_tail_that_no_line_begins_with_is_damage(tail):
    with pytest.raises(JournalError, match="j:5: the line is damaged and has no end"):
        parse(DATA + tail, "j")


@pytest.mark.parametrize(
    ("order", "line", "what"),
    [
        ((0, 2, 1, 3), 2, "step 0 round 1 comes after the header"),
        ((0, 1, 1, 2, 3), 3, "step 0 round 0 comes after step 0 round 0"),
        ((0, 1, 2, 3, 3), 5, "step 1 round 0 comes after step 1 round 0"),
        ((0, 2, 3), 2, "step 0 round 1 comes after the header"),
        ((0, 3), 2, "step 1 round 0 comes after the header"),
        ((0, 1, 2, 3, 1), 5, "step 0 round 0 comes after step 1 round 0"),
        ((1, 2, 3), 1, "not the header"),
        ((0, 0, 1), 2, "not a round"),
    ],
)
def test_lines_missing_repeated_or_out_of_place_are_found(order, line, what):
    lines = DATA.splitlines(keepends=True)
    with pytest.raises(JournalError, match=f"j:{line}:.*{what}"):
        parse(b"".join(lines[n] for n in order), "j")


def sealed(body: str) -> bytes:
    return f'{body},"crc":"{zlib.crc32(body.encode()):08x}"}}\n'.encode()


@pytest.mark.parametrize(
    "body",
    [
        '{"t":0,"r":0,"lr":0.1,"k":0,"v":"AAAAPwAAEEA="',
        '{"t":0,"r":0,"lr":0.1,"k":3,"v":"AAAAPwAAEEA="',
        '{"t":0,"r":0,"lr":0.1,"k":2,"v":"AAAAPwAAEEA"',
        '{"t":0,"r":0,"lr":0.1,"k":2,"v":""',
        '{"t":0,"r":0,"lr":nan,"k":2,"v":"AAAAPwAAEEA="',
        '{"t":0,"r":0,"lr":0.1,"k":2,"v":"AAAAPwAAEEA=","host":"x"',
        '{"t":-1,"r":0,"lr":0.1,"k":2,"v":"AAAAPwAAEEA="',
        '{"t":0,"r":0,"lr":"é"',
    ],
)
def test_a_line_with_a_right_checksum_and_wrong_content_is_refused(body):
    with pytest.raises(JournalError, match="j:2:"):
        parse(header_line(HEADER) + sealed(body), "j")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ('{"format":"zodist-journal/2","run":"0123456789abcdef"', "the format is 'zodist-journal/2'"),
        ('{"format":"zodist-journal/1","run":"0123456789abcdef"', "is not that of this header"),
        ('{"format":"zodist-journal/1"', "not the header"),
        ("[1", "not the header"),
        ('{"format":"zodist-journal/1","x":"é', "not the header"),
        ('{"format":"zodist-journal/1","run":"0123456789abcdef","x":NaN', "not the header"),
        pytest.param(
            '{"format":"zodist-journal/1","run":"0","x":' + "[" * 20000 + "]" * 20000,
            "not the header",
            id="deep",
        ),
    ],
)
def test_a_foreign_header_is_refused(body, what):
    with pytest.raises(JournalError, match=f"j:1:.*{what}"):
        parse(sealed(body), "j")


def test_twenty_thousand_steps_are_read_in_two_seconds():
    """0.15 s of CPU on an idle core; the rest is room for a slow one."""
    values = ROUNDS[0].values
    lines = [header_line(HEADER), *(line_of(Entry(step, 0, 1e-4, values)) for step in range(20_000))]
    data = b"".join(lines)
    start = time.process_time()
    assert len(parse(data, "j").entries) == 20_000
    assert time.process_time() - start < 2


def test_difference_finds_the_first_setting():
    assert difference(HEADER, HEADER) == ""
    assert difference({"a": 1}, {"a": 1.0}) == "a is 1 there, 1.0 here"
    assert difference({"a": {"b": [1]}}, {"a": {"b": [2]}}) == "a.b is [1] there, [2] here"
