"""Titles are cleaned once, here, so that every later stage, prompt and report sees the same text.

A clean title has no HTML entities, no control characters or line breaks and single spaces, so that one line holds one title and a
separator can never stand inside it. Which titles are usable follows the D3 protocol (Bao et al. 2024, "Decoding Matters"): in its spirit
(``strict``), or to the letter (``d3``), where the same items as there are wanted: the protocol keeps scripts that the crawl took for
titles, and counts a double space as a word.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Final, Literal

TitleRule = Literal["strict", "d3"]
MIN_TITLE_CHARACTERS: Final = 2  # D3 drops titles of one character

_DEBRIS = re.compile(r"<span id|getTime\(\)")  # scripts and markup that the Amazon crawl took for titles
_SPACES = re.compile(r"\s+")


def clean_title(raw: str | None) -> str:
    """Title as shown to people and models; empty where there is none or it is page debris."""
    return "" if not raw or _DEBRIS.search(raw) else _one_line(raw)


def usable_title(raw: str | None, *, max_words: int, rule: TitleRule) -> str:
    """The clean title where it can stand for an item: at least two characters and at most ``max_words`` words; else empty."""
    if rule == "d3":
        return _one_line(raw) if raw and _is_kept_by_d3(raw, max_words) else ""
    title = clean_title(raw)
    return title if len(title) >= MIN_TITLE_CHARACTERS and title.count(" ") < max_words else ""


def _is_kept_by_d3(raw: str, max_words: int) -> bool:
    """As ``gao`` in code/process.py of github.com/SAI990323/DecodingMatters decides."""
    title = raw.replace("&quot;", '"').replace("&amp;", "&").strip(" ").strip('"')
    return "<span id" not in raw and len(title) >= MIN_TITLE_CHARACTERS and len(title.split(" ")) <= max_words


def _one_line(raw: str) -> str:
    text = html.unescape(raw)
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character for character in text)
    return _SPACES.sub(" ", text).strip().strip('"').strip()
