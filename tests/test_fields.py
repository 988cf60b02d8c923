"""What requests are read with in every dialect: the model or the default one, and base64 in any of its spellings."""

from __future__ import annotations

import base64
import gzip
import re
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallama import BadRequest, Fields, read_body
from parallama.testing import inbound


@pytest.mark.parametrize("no_model", [{}, {"model": None}, {"model": ""}])
def test_the_default_model_stands_in_for_none(no_model: dict[str, Any]) -> None:
    assert Fields(no_model).model(inbound(default_model="llama")) == "llama"
    with pytest.raises(BadRequest) as caught:
        Fields(no_model).model(inbound())
    assert (caught.value.code, caught.value.param) == ("missing_parameter", "model")


def test_a_model_is_the_one_that_the_client_named() -> None:
    assert Fields({"model": "Own:Tag "}).model(inbound(default_model="llama")) == "Own:Tag "
    with pytest.raises(BadRequest) as caught:
        Fields({"model": 5}).model(inbound(default_model="llama"))
    assert caught.value.code == "invalid_parameter"


def read(text: str, start: int = 0) -> str:
    return Fields({"data": text}).base64("data", start)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "without padding": lambda text: text.rstrip("="),
    "with too much of it": lambda text: f"{text}===",
    "URL-safe": lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
    "in lines": lambda text: "\r\n".join(re.findall(".{1,7}", text)) + "\n",
    "indented": lambda text: f" \t{text} ",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(data=st.binary(min_size=1, max_size=40))
def test_base64_is_told_as_go_reads_it_however_it_was_written(spelling: str, data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert read(SPELLINGS[spelling](text)) == text
    assert read("data:," + SPELLINGS[spelling](text), 6) == text


NOT_BASE64 = [
    "",
    " ",
    "=",
    "====",
    "A",
    "A===",
    "AAAAA",
    "AA=A",
    "=AAA",
    "AA==AAAA",
    "AAA!",
    "ÄAAA",
    "AA\0A",
    "\ud800AAA",
]


@pytest.mark.parametrize("text", NOT_BASE64)
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(text)
    assert (caught.value.code, caught.value.param) == ("invalid_parameter", "data")


@given(st.text(alphabet="A9+/-_= \n!", max_size=12))
def test_whatever_is_taken_for_base64_can_be_decoded(text: str) -> None:
    try:
        found = read(text)
    except BadRequest:
        return
    assert base64.b64decode(found, validate=True)


def test_a_large_image_is_not_copied_where_nothing_is_to_change() -> None:
    text = base64.b64encode(bytes(100_000)).decode()
    assert read(text) is text


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
def test_a_compressed_body_is_called_that(compress: Callable[[bytes], bytes]) -> None:
    with pytest.raises(BadRequest, match="compressed; send it without Content-Encoding"):
        read_body(compress(b'{"model": "m"}'))
