"""API keys: shape, checksum, digest and hint."""

from __future__ import annotations

import hashlib
import re
import string
from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from parallama.identity import keys

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
SAMPLE = keys.new_key()


def base62(text: str) -> int:
    number = 0
    for digit in text:
        number = number * 62 + ALPHABET.index(digit)
    return number


def test_a_key_is_prefix_random_digits_and_the_crc32_of_both() -> None:
    for _ in range(500):
        key = keys.new_key()
        assert re.fullmatch(r"plm_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", key)
        body, _, check = key.rpartition("_")
        assert base62(check) == crc32(body.encode())
        assert base62(body.removeprefix("plm_")) < 2**256
        assert keys.well_formed(key)


def test_keys_use_all_256_bits() -> None:
    seen = [base62(keys.new_key()[4:47]) for _ in range(400)]
    assert len(set(seen)) == len(seen)
    for bit in range(256):
        assert {number >> bit & 1 for number in seen} == {0, 1}


def test_every_change_of_one_character_is_caught() -> None:
    for place, right in enumerate(SAMPLE):
        for wrong in set(string.printable) - {right}:
            assert not keys.well_formed(SAMPLE[:place] + wrong + SAMPLE[place + 1 :]), (place, wrong)


@given(st.integers(0, len(SAMPLE) - 1), st.characters())
def test_a_character_of_any_script_in_place_of_another_is_caught(place: int, character: str) -> None:
    changed = SAMPLE[:place] + character + SAMPLE[place + 1 :]
    assert keys.well_formed(changed) == (changed == SAMPLE)


@given(st.integers(0, len(SAMPLE) - 2))
def test_two_characters_swapped_are_caught(place: int) -> None:
    swapped = SAMPLE[:place] + SAMPLE[place + 1] + SAMPLE[place] + SAMPLE[place + 2 :]
    assert keys.well_formed(swapped) == (swapped == SAMPLE)


@given(st.integers(0, len(SAMPLE) - 1))
def test_a_key_cut_off_is_caught(length: int) -> None:
    assert not keys.well_formed(SAMPLE[:length])


@given(st.text())
def test_other_text_is_no_key(text: str) -> None:
    assert not keys.well_formed(text)
    assert not keys.well_formed(SAMPLE + (text or "\n"))


def test_what_is_stored_is_the_sha256_of_the_whole_key() -> None:
    assert keys.digest(SAMPLE) == hashlib.sha256(SAMPLE.encode()).digest()


def test_the_hint_shows_four_characters_at_each_end_and_no_more() -> None:
    assert keys.hint(SAMPLE) == f"plm_{SAMPLE[4:8]}…{SAMPLE[-4:]}"


def test_scanners_find_a_key_in_a_text() -> None:
    assert re.findall(keys.KEY_PATTERN, f'api_key = "{SAMPLE}"; other = "plm_short"') == [SAMPLE]
