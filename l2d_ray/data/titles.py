"""Titles are cleaned once, here, so that every later stage, prompt and report sees the same text.

A clean title has no HTML entities, no control characters or line breaks and single spaces, so that one line holds one title and a
separator can never stand inside it. Which titles are usable follows the D3 protocol (Bao et al. 2024, "Decoding Matters").
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Final

MIN_TITLE_CHARACTERS: Final = 2  # D3 drops titles of one character

_DEBRIS = re.compile(r"<span id|getTime\(\)")  # scripts and markup that the Amazon crawl took for titles
_SPACES = re.compile(r"\s+")


def clean_title(raw: str | None) -> str:
    """Title as shown to people and models; empty where there is none or it is page debris."""
    if not raw or _DEBRIS.search(raw):
        return ""
    text = html.unescape(raw)
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character for character in text)
    return _SPACES.sub(" ", text).strip().strip('"').strip()


def is_usable(title: str, *, max_words: int) -> bool:
    """Whether a cleaned title can stand for an item: at least two characters and at most ``max_words`` words."""
    return len(title) >= MIN_TITLE_CHARACTERS and title.count(" ") < max_words
