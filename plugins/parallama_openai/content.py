"""The content of a message, a text or parts, as Ollama has it: one text, and images in base64.

Text parts are joined by a newline: they are blocks of their own, such as files, and glued together the end of one and
the beginning of the next would be one word.
"""

from __future__ import annotations

import re

from parallama.gateway.fields import Fields, shown

_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of parts with text, and the member that holds it."""

_IMAGES = ("image_url", "input_image")

_DATA_URL = re.compile(r"data:([^;,]{0,64})((?:;[^;,]{0,64}){0,8}?);base64,", re.IGNORECASE)

_IMAGE_TYPES = ("", "image/jpeg", "image/jpg", "image/png", "image/webp")
"""Those that Ollama's own OpenAI layer takes; it looks at the bytes, whatever the type says."""


def content(given: Fields, name: str = "content") -> tuple[str, list[str]]:
    """The text and the images (sounds too, as Ollama has it) of a string or an array of parts; a null is no text.

    Raises BadRequest for parts that a node cannot be given: files, and images that are not in the request.
    """
    value = given.any(name)
    if value is None or isinstance(value, str):
        return value or "", []
    if not isinstance(value, list):
        given.refuse(name, "it must be a string or an array of parts")
    texts: list[str] = []
    images: list[str] = []
    for part in given.objects(name) or ():
        _read(part, texts, images)
    return "\n".join(texts), images


def _read(part: Fields, texts: list[str], images: list[str]) -> None:
    kind = part.string("type", required=True)
    if kind in _TEXTS:
        texts.append(part.string(_TEXTS[kind], required=True))
    elif kind in _IMAGES:
        images.append(_image(part))
    elif kind == "input_audio":
        images.append(_audio(part))
    else:
        part.refuse("type", f"parts of the type {shown(kind)!r} are not supported; text, images and audio are")


def _image(part: Fields) -> str:
    """The image of `{"image_url": url}` or `{"image_url": {"url": url}}`, in base64."""
    if isinstance(part.any("image_url"), dict):
        return _data_url(part.object("image_url", required=True), "url")
    if "file_id" in part:
        part.refuse("file_id", "files are not kept here; send the image as a data: URL")
    return _data_url(part, "image_url")


def _data_url(given: Fields, name: str) -> str:
    """The base64 of an image in a data: URL (RFC 2397)."""
    head = _DATA_URL.match(given.string(name, required=True))
    if head is None:
        given.refuse(name, "nothing is fetched from elsewhere; send the image as a data: URL in base64")
    if head[1].strip().lower() not in _IMAGE_TYPES:
        given.refuse(name, "the type of the image must be image/jpeg, image/png or image/webp")
    return given.base64(name, head.end())


def _audio(part: Fields) -> str:
    sound = part.object("input_audio", required=True)
    sound.string("format", among=("wav", "mp3"))
    return sound.base64("data")
