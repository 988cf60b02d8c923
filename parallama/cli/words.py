"""Options that hold a list: repeated, with commas, or both. Pure."""

from __future__ import annotations

from collections.abc import Iterable


def words(given: Iterable[str]) -> list[str]:
    """The words of all texts in `given`, which commas part; an empty text has none."""
    return [word.strip() for text in given for word in text.split(",") if word.strip()]


def words_if_any(given: Iterable[str]) -> list[str] | None:
    """As `words`; None when there is no text at all, which is another thing than an empty one."""
    texts = list(given)
    return words(texts) if texts else None
