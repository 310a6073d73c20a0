"""What a source is: files, and two functions that read one of them as a stream.

A source is small and is sent to workers; a file is the unit of parallel work, and its path is valid on every machine that sees the
same disk or object store. The order of the files and of the rows in them is the "place in the input" that breaks ties in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from l2d_ray.data.items import RawItem


@dataclass(frozen=True)
class Source:
    """Files of one data set and their readers.

    Attributes:
        read_interactions: path -> tables of schema INTERACTIONS in file order, each of bounded size.
        read_items: path -> items in file order.
        first_title_wins: keep the first of two rows with one item_id and different titles, instead of refusing them.
    """

    interaction_files: tuple[str, ...]
    item_files: tuple[str, ...]
    read_interactions: Callable[[str], Iterator[pa.Table]]
    read_items: Callable[[str], Iterator[RawItem]]
    first_title_wins: bool = False
