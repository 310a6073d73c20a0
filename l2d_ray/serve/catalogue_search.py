"""Search of titles by the words that somebody has typed so far: every word must begin a word of the title.

Words compare without case and accents. First come titles equal to the query, then those that begin with it, then short titles; ties go to
the smaller item_index. Of very many matches only the MAX_ORDERED shortest titles are put in order: who sees those types another letter.
The index over words is built once for a catalogue; edits are looked at one by one.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_ORDERED: Final = 2000
_WORD: Final = re.compile(r"\w+")
_LAST: Final = "\U0010ffff"


def folded(text: str) -> str:
    """Text as it compares: without case and accents."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def words_of(text: str) -> list[str]:
    return _WORD.findall(folded(text))


@dataclass(frozen=True)
class Matches:
    """Items that match, best first, at most MAX_ORDERED of them; and how many match in all."""

    item_indexes: list[int]
    num_found: int


class TitleSearch:
    """Over the titles of the items 0, 1, ..."""

    def __init__(self, titles: Sequence[str]) -> None:
        word_to_items: dict[str, list[int]] = defaultdict(list)
        for index, title in enumerate(titles):
            for word in dict.fromkeys(words_of(title)):
                word_to_items[word].append(index)
        self._titles = titles
        self._lengths = np.array([len(title) for title in titles], dtype=np.int64)
        self._words = sorted(word_to_items)
        self._items = [np.array(word_to_items[word], dtype=np.int64) for word in self._words]

    def find(self, query: str, edits: Mapping[int, str | None]) -> Matches:
        """Items that match a query; one without a word matches every item.

        Args:
            edits: titles that differ from this catalogue's, and those of items that it lacks; None: the item is deleted.
        """
        words = words_of(query)
        candidates = self._candidates(words)
        unchanged = candidates[~np.isin(candidates, list(edits))]
        edited = [index for index, title in edits.items() if title is not None and _matches(words, title)]
        shortest = unchanged[np.lexsort((unchanged, self._lengths[unchanged]))[:MAX_ORDERED]].tolist() if words else unchanged[:MAX_ORDERED]
        whole = " ".join(words)
        ordered = sorted([*shortest, *edited], key=lambda index: _order(whole, edits.get(index) or self._titles[index], index))
        return Matches([int(index) for index in ordered[:MAX_ORDERED]], len(unchanged) + len(edited))

    def _candidates(self, words: Sequence[str]) -> NDArray[np.int64]:
        if not words:
            return np.arange(len(self._titles))
        found: NDArray[np.int64] | None = None
        for word in sorted(words, key=len, reverse=True):
            start, stop = bisect_left(self._words, word), bisect_left(self._words, word + _LAST)
            items = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *self._items[start:stop]]))
            found = items if found is None else np.intersect1d(found, items, assume_unique=True)
        assert found is not None
        return found


def _matches(words: Sequence[str], title: str) -> bool:
    there = words_of(title)
    return all(any(other.startswith(word) for other in there) for word in words)


def _order(whole: str, title: str, index: int) -> tuple[int, int, int]:
    said = " ".join(words_of(title))
    closeness = 0 if said == whole else 1 if said.startswith(whole) else 2
    return closeness, len(said) if whole else 0, index
