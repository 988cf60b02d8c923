"""Records of a journal: whatever a crash or a disk has done to a file, what is read is what was written."""

from __future__ import annotations

from zlib import crc32

import pytest

from parallama.ledger.frames import MAX_RECORD, framed, payloads, unframed

PAYLOADS = [b"one", b"\0", b"the third of them" * 3]
FILE = b"".join(map(framed, PAYLOADS))
ENDS = [len(b"".join(map(framed, PAYLOADS[:count]))) for count in range(4)]


def read(data: bytes) -> list[bytes]:
    return [payload for payload, _ in unframed(data)]


def test_what_is_written_is_read_with_where_it_ends() -> None:
    assert list(unframed(FILE)) == list(zip(PAYLOADS, ENDS[1:], strict=True))
    assert read(b"") == []


@pytest.mark.parametrize("length", range(len(FILE)))
def test_of_a_file_that_is_torn_anywhere_every_whole_record_is_read(length: int) -> None:
    assert read(FILE[:length]) == PAYLOADS[: sum(end <= length for end in ENDS) - 1]


@pytest.mark.parametrize("at", range(len(FILE)))
def test_reading_ends_before_a_damaged_record(at: int) -> None:
    before = PAYLOADS[: sum(end <= at for end in ENDS) - 1]
    for bit in range(8):
        damaged = bytearray(FILE)
        damaged[at] ^= 1 << bit
        assert read(bytes(damaged)) == before


def test_of_many_records_the_damaged_ones_are_left_out() -> None:
    first, second, third = map(framed, PAYLOADS)
    assert payloads([first, second, third]) == PAYLOADS
    for at in range(len(third)):
        damaged = bytearray(third)
        damaged[at] ^= 1
        assert payloads([first, bytes(damaged), third[:at], second]) == PAYLOADS[:2]
    assert payloads([]) == []


@pytest.mark.parametrize("zeros", [1, 7, 8, 9, 4096])
def test_zeros_that_a_power_cut_has_left_are_no_records(zeros: int) -> None:
    assert read(FILE + bytes(zeros)) == PAYLOADS
    assert read(bytes(zeros)) == []


def test_what_claims_to_be_too_long_is_no_record() -> None:
    longest, longer = bytes(MAX_RECORD), bytes(MAX_RECORD + 1)
    assert read(framed(longest)) == [longest]
    assert crc32(longer)
    assert read(framed(longer) + FILE) == []
